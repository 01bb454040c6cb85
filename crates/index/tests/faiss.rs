//! faiss kinds beyond conformance: files, training, the reference values of faiss-cpu.
#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::path::PathBuf;

use half::f16;
use quarry_index::{FaissIndex, Hit, IndexError, IndexSpec, Part, Search};
use serde::Deserialize;

fn fixture<T: for<'a> Deserialize<'a>>(name: &str) -> T {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name);
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap())
        .read_to_string(&mut text)
        .unwrap();
    serde_json::from_str(&text).unwrap()
}

/// `scripts/reference/index_fixtures.py`: vectors of whole numbers and what faiss-cpu finds in them.
#[derive(Deserialize)]
struct Reference {
    dim: usize,
    rows: Vec<i8>,
    queries: Vec<i8>,
    /// Scores of the 10 best rows of each query.
    flat_scores: Vec<Vec<f32>>,
    /// Factory string and recall@10 by faiss-cpu at nprobe 4 or its default efSearch.
    recalls: Vec<(String, f64)>,
}

fn part(values: &[i8], dim: usize) -> Part {
    Part::new(
        0,
        dim,
        values
            .iter()
            .map(|value| f16::from_f32(f32::from(*value)))
            .collect::<Vec<_>>(),
    )
    .unwrap()
}

fn spec(factory: &str) -> IndexSpec {
    IndexSpec {
        nprobe: factory.contains("IVF").then_some(4),
        ..IndexSpec::new(factory)
    }
}

#[test]
fn agrees_with_faiss_cpu() {
    let reference: Reference = fixture("faiss.json.gz");
    let parts = [part(&reference.rows, reference.dim)];
    let queries: Vec<f32> = reference
        .queries
        .iter()
        .map(|value| f32::from(*value))
        .collect();
    let flat = FaissIndex::build(&spec("Flat"), &parts, 0)
        .unwrap()
        .search(&queries, 10)
        .unwrap();
    let scores: Vec<Vec<f32>> = flat
        .iter()
        .map(|hits| hits.iter().map(|hit| hit.score).collect())
        .collect();
    assert_eq!(scores, reference.flat_scores);
    for (factory, expected) in reference.recalls {
        let found = FaissIndex::build(&spec(&factory), &parts, 0)
            .unwrap()
            .search(&queries, 10)
            .unwrap();
        let shared = found.iter().zip(&flat).map(|(found, truth)| {
            truth
                .iter()
                .filter(|hit| found.iter().any(|other| other.row == hit.row))
                .count()
        });
        let recall = shared.sum::<usize>() as f64 / (flat.len() * 10) as f64;
        println!("{factory}: recall@10 {recall:.3}, faiss-cpu {expected:.3}");
        assert!(
            recall > expected - 0.05,
            "{factory}: {recall} against {expected}"
        );
    }
}

fn small() -> (Part, Vec<f32>) {
    let values: Vec<i8> = (0..600i32 * 8)
        .map(|i| ((i * i * 7 + i * 13) % 11 - 5) as i8)
        .collect();
    let queries = values[..8 * 5]
        .iter()
        .map(|value| f32::from(*value))
        .collect();
    (part(&values, 8), queries)
}

#[test]
fn a_written_index_searches_the_same() {
    let (part, queries) = small();
    let folder = tempfile::tempdir().unwrap();
    let kinds = [
        spec("Flat"),
        IndexSpec {
            nprobe: Some(3),
            ..spec("IVF8,Flat")
        },
        IndexSpec {
            ef_search: Some(33),
            ..spec("HNSW8")
        },
        spec("IVF4,PQ4"),
    ];
    for spec in kinds {
        let shifted = Part::new(70, 8, part.values().to_vec()).unwrap();
        let index = FaissIndex::build(&spec, &[shifted], 5).unwrap();
        let path = folder.path().join("index");
        index.write(&path).unwrap();
        let read = FaissIndex::read(&path).unwrap();
        assert_eq!(read.spec(), &spec);
        assert_eq!((read.first_row(), read.len(), read.dim()), (70, 600, 8));
        assert_eq!(
            read.search(&queries, 9).unwrap(),
            index.search(&queries, 9).unwrap(),
            "{spec:?}"
        );
        let bytes = std::fs::read(&path).unwrap();
        read.write(&path).unwrap();
        assert_eq!(
            std::fs::read(&path).unwrap(),
            bytes,
            "{spec:?} is not reproducible"
        );
    }
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        1,
        "a temporary file was left"
    );
}

#[test]
fn damaged_files_are_refused() {
    let (part, _) = small();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    FaissIndex::build(&spec("IVF8,Flat"), &[part], 5)
        .unwrap()
        .write(&path)
        .unwrap();
    let whole = std::fs::read(&path).unwrap();
    let cuts = [0, 3, 16, whole.len() / 2, whole.len() - 1];
    let mut damaged: Vec<Vec<u8>> = cuts.iter().map(|cut| whole[..*cut].to_vec()).collect();
    damaged.push([&whole[..], b"x"].concat());
    damaged.push(whole[40..].to_vec());
    for bytes in damaged {
        std::fs::write(&path, &bytes).unwrap();
        let error = FaissIndex::read(&path).err().map(|error| error.to_string());
        assert!(
            error.as_ref().is_some_and(|error| error.contains("index")),
            "{} bytes: {error:?}",
            bytes.len()
        );
    }
    assert!(matches!(
        FaissIndex::read(folder.path().join("absent")),
        Err(IndexError::Io { .. })
    ));
}

#[test]
fn what_cannot_be_built_says_why() {
    let (part, _) = small();
    let message = |spec: IndexSpec| {
        FaissIndex::build(&spec, std::slice::from_ref(&part), 0)
            .err()
            .unwrap()
            .to_string()
    };
    assert!(
        message(spec("IVF1024,Flat")).contains("needs at least 1024 rows to train and has 600")
    );
    assert!(message(spec("Nonsense")).contains("Nonsense"));
    assert!(
        message(spec("PQ3")).contains("PQ3"),
        "8 dimensions are not a multiple of 3"
    );
    assert!(
        message(IndexSpec {
            ef_search: Some(9),
            ..spec("Flat")
        })
        .contains("ef_search")
    );
    let gap = [
        part.clone(),
        Part::new(700, 8, part.values().to_vec()).unwrap(),
    ];
    assert!(matches!(
        FaissIndex::build(&spec("Flat"), &gap, 0),
        Err(IndexError::Parts { first_row: 700, .. })
    ));
}

#[test]
fn nprobe_and_ef_search_reach_faiss() {
    let (part, queries) = small();
    let found = |spec: &IndexSpec| {
        FaissIndex::build(spec, std::slice::from_ref(&part), 0)
            .unwrap()
            .search(&queries, 400)
            .unwrap()
    };
    let count = |hits: Vec<Vec<Hit>>| hits.iter().map(Vec::len).sum::<usize>();
    let one = count(found(&IndexSpec {
        nprobe: Some(1),
        ..spec("IVF8,Flat")
    }));
    let all = count(found(&IndexSpec {
        nprobe: Some(8),
        ..spec("IVF8,Flat")
    }));
    assert!(one < all && all == queries.len() / 8 * 400, "{one} {all}");
}
