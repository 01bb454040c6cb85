//! Round trips, and files that are damaged at random places: an error or the truth, never a panic.

use std::path::Path;
use std::sync::LazyLock;

use half::f16;
use proptest::prelude::*;
use quarry_corpus::{
    CandidateList, Candidates, Corpus, CorpusError, Embeddings, Format, NegativesBlock, QuerySet,
    Shard,
};
use tempfile::TempDir;

use crate::{Prepared, collection, options};

/// One valid file of every kind: its name and what opens it and reads all of it.
type Reader = fn(&Path) -> Result<u64, CorpusError>;
const KINDS: [(&str, Reader); 4] = [
    ("shard-00000.arrow", read_shard),
    ("queries-dev.arrow", read_queries),
    ("block.arrow", read_block),
    ("rows.safetensors", read_embeddings),
];

static FILES: LazyLock<(TempDir, Vec<Vec<u8>>)> = LazyLock::new(|| {
    let dir = collection(&[
        (
            "corpus.jsonl",
            "{\"_id\":\"a\",\"text\":\"alpha é\"}\n{\"_id\":\"b\",\"text\":\"beta gamma\"}\n"
                .as_bytes(),
        ),
        ("queries.jsonl", b"{\"_id\":\"q\",\"text\":\"query\"}\n"),
        ("qrels/dev.tsv", b"q\ta\t1\n"),
    ]);
    let Prepared { out, .. } = Prepared::new(dir.path(), &options(Format::Beir, &["dev"]));
    let list = CandidateList {
        query: 3,
        rows: vec![1, 0],
        scores: vec![0.5, 0.25],
        positives: vec![2],
        positive_scores: vec![0.75],
    };
    NegativesBlock::write(&out.path().join("block.arrow"), &[list]).unwrap();
    let rows: Vec<f16> = (0..6).map(|value| f16::from_f32(value as f32)).collect();
    Embeddings::write(&out.path().join("rows.safetensors"), &rows, 3, 5, "digest").unwrap();
    let bytes = KINDS
        .iter()
        .map(|(name, _)| std::fs::read(out.path().join(name)).unwrap())
        .collect();
    (out, bytes)
});

fn read_shard(path: &Path) -> Result<u64, CorpusError> {
    let shard = Shard::open(path)?;
    let lengths =
        |i| shard.id(i).chars().count() + shard.text(i).chars().count() + shard.tokens(i).len();
    Ok((0..shard.len())
        .map(|i| lengths(i) as u64 ^ shard.text_hash(i))
        .fold(0, u64::wrapping_add))
}

fn read_queries(path: &Path) -> Result<u64, CorpusError> {
    let set = QuerySet::open(path)?;
    let lengths = |i| {
        set.id(i).len() + set.text(i).chars().count() + set.tokens(i).len() + set.judged(i).1.len()
    };
    Ok((0..set.len())
        .map(|i| (lengths(i) + set.positives(i).count()) as u64)
        .sum())
}

fn read_block(path: &Path) -> Result<u64, CorpusError> {
    Ok(Candidates::read(path)?
        .iter()
        .map(|list| (list.rows.len() + list.positives.len()) as u64)
        .sum())
}

fn read_embeddings(path: &Path) -> Result<u64, CorpusError> {
    let embeddings = Embeddings::open(path)?;
    assert_eq!(embeddings.rows().len(), embeddings.len() * embeddings.dim());
    Ok(embeddings
        .rows()
        .iter()
        .filter(|value| value.is_finite())
        .count() as u64)
}

#[test]
fn the_undamaged_files_open() {
    let (dir, _) = &*FILES;
    for (name, read) in KINDS {
        read(&dir.path().join(name)).unwrap();
    }
    let block = NegativesBlock::open(&dir.path().join("block.arrow")).unwrap();
    assert_eq!(
        (block.len(), block.query(0), block.negatives(0)),
        (1, 3, &[1, 0][..])
    );
    assert_eq!(
        (block.scores(0), block.positives(0)),
        (&[0.5, 0.25][..], &[2][..])
    );
    assert_eq!(block.positive_scores(0), [0.75]);
    let embeddings = Embeddings::open(&dir.path().join("rows.safetensors")).unwrap();
    assert_eq!(
        (embeddings.len(), embeddings.dim(), embeddings.first_row()),
        (2, 3, 5)
    );
    assert_eq!(embeddings.checkpoint(), "digest");
    assert_eq!(embeddings.rows()[4], f16::from_f32(4.0));
}

#[test]
fn every_truncation_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    for ((name, read), bytes) in KINDS.iter().zip(&FILES.1) {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        for end in (0..bytes.len()).rev() {
            file.set_len(end as u64).unwrap();
            let message = read(&path).unwrap_err().to_string();
            assert!(
                message.starts_with(&path.display().to_string()),
                "{message}"
            );
        }
    }
}

#[test]
fn foreign_tables_are_refused() {
    let (dir, _) = &*FILES;
    let path = dir.path().join("queries-dev.arrow");
    let message = Shard::open(&path).unwrap_err().to_string();
    assert!(
        message.contains("is not a valid corpus shard: its columns are [\"id\""),
        "{message}"
    );
    assert!(Embeddings::open(&path).is_err());
    assert!(
        Shard::open(Path::new("absent.arrow"))
            .unwrap_err()
            .to_string()
            .starts_with("cannot open absent.arrow")
    );
}

#[test]
fn a_corpus_with_a_gap_is_refused() {
    let corpus: String = (0..5)
        .map(|i| format!("{{\"_id\":\"{i}\",\"text\":\"t\"}}\n"))
        .collect();
    let dir = collection(&[
        ("corpus.jsonl", corpus.as_bytes()),
        ("queries.jsonl", b"{\"_id\":\"q\",\"text\":\"query\"}\n"),
        ("qrels/dev.tsv", b"q\t4\t1\n"),
    ]);
    let prepared = Prepared::new(dir.path(), &options(Format::Beir, &["dev"]));
    let mut paths = prepared.shards();
    paths.reverse();
    assert_eq!(Corpus::open(&paths).unwrap().id(4), "4");
    paths.remove(1);
    let message = Corpus::open(&paths).unwrap_err().to_string();
    assert!(
        message.contains("begins at row 4") && message.contains("end at 2"),
        "{message}"
    );
}

#[test]
fn values_that_are_no_numbers_are_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let list = CandidateList {
        rows: vec![1],
        scores: vec![f32::NAN],
        ..CandidateList::default()
    };
    assert!(
        Candidates::write(&path, &[list])
            .unwrap_err()
            .to_string()
            .contains("not a number")
    );
    let list = CandidateList {
        rows: vec![1],
        ..CandidateList::default()
    };
    assert!(
        Candidates::write(&path, &[list])
            .unwrap_err()
            .to_string()
            .contains("number of scores")
    );
    let rows = [f16::ONE, f16::ONE, f16::ONE, f16::INFINITY];
    let message = Embeddings::write(&path, &rows, 2, 10, "digest")
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("the vector of row 11 is not finite"),
        "{message}"
    );
    assert!(Embeddings::write(&path, &rows[..3], 2, 10, "digest").is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

fn lists() -> impl Strategy<Value = Vec<CandidateList>> {
    let scored = || prop::collection::vec((any::<u32>(), -1e6_f32..1e6), 0..6);
    let list = (any::<u32>(), scored(), scored()).prop_map(|(query, found, positive)| {
        let (rows, scores) = found.into_iter().unzip();
        let (positives, positive_scores) = positive.into_iter().unzip();
        CandidateList {
            query,
            rows,
            scores,
            positives,
            positive_scores,
        }
    });
    prop::collection::vec(list, 0..8)
}

/// A collection of passages with arbitrary text (JSON carries all of Unicode); each is judged by one query.
fn texts() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec((any::<String>(), "\\PC*[a-zß語]"), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn candidates_come_back(lists in lists()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("block.arrow");
        let written = Candidates::write(&path, &lists).unwrap();
        prop_assert_eq!(written.size, std::fs::metadata(&path).unwrap().len());
        prop_assert_eq!(Candidates::read(&path).unwrap(), lists);
    }

    #[test]
    fn embeddings_come_back(bits in prop::collection::vec(any::<u16>(), 0..40), dim in 1_usize..5, first in any::<u16>()) {
        let mut rows: Vec<f16> = bits.into_iter().map(f16::from_bits).filter(|value| value.is_finite()).collect();
        rows.truncate(rows.len() / dim * dim);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.safetensors");
        Embeddings::write(&path, &rows, dim, first.into(), "a \"quoted\" digest").unwrap();
        let back = Embeddings::open(&path).unwrap();
        prop_assert_eq!(back.rows(), &rows[..]);
        prop_assert_eq!((back.len() * dim, back.dim(), back.first_row()), (rows.len(), dim, u32::from(first)));
        prop_assert_eq!(back.checkpoint(), "a \"quoted\" digest");
    }

    #[test]
    fn collections_come_back(texts in texts(), shard_passages in 1_usize..5) {
        let (mut corpus, mut queries, mut qrels) = (String::new(), String::new(), String::new());
        for (i, (title, text)) in texts.iter().enumerate() {
            corpus += &format!("{}\n", serde_json::json!({"_id": i.to_string(), "title": title, "text": text}));
            queries += &format!("{}\n", serde_json::json!({"_id": format!("q{i}"), "text": text}));
            qrels += &format!("q{i}\t{i}\t1\n");
        }
        let dir = collection(&[
            ("corpus.jsonl", corpus.as_bytes()),
            ("queries.jsonl.gz", queries.as_bytes()),
            ("qrels/all.tsv", qrels.as_bytes()),
        ]);
        let mut options = options(Format::Beir, &["all"]);
        options.shard_passages = shard_passages;
        let prepared = Prepared::new(dir.path(), &options);
        let (corpus, queries) = (prepared.corpus(), prepared.queries("all"));
        prop_assert_eq!((corpus.passages(), queries.len()), (texts.len(), texts.len()));
        prop_assert_eq!(prepared.manifest.shards.len(), texts.len().div_ceil(shard_passages));
        for (i, (title, text)) in texts.iter().enumerate() {
            let full = if title.is_empty() { text.clone() } else { format!("{title} {text}") };
            prop_assert_eq!(corpus.id(i as u32), i.to_string());
            prop_assert_eq!(corpus.text(i as u32), &full);
            prop_assert_eq!(corpus.tokens(i as u32), crate::words(&full, 128));
            prop_assert_eq!(queries.text(i), text);
            prop_assert_eq!(queries.positives(i).collect::<Vec<_>>(), vec![i as u32]);
        }
    }

    #[test]
    fn damaged_files_never_panic(kind in 0_usize..4, damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5)) {
        let (name, read) = KINDS[kind];
        let mut bytes = FILES.1[kind].clone();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        // Damage of mere values cannot be seen here: the hash of the manifest is for that.
        let _ = read(&path);
    }
}
