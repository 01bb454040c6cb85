//! What every dense index must do, checked against brute force.
#![allow(clippy::unwrap_used)]

use half::f16;
use quarry_index::{ExactIndex, FaissIndex, Hit, IndexError, IndexSpec, Part, Search};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const DIM: usize = 32;
const FIRST_ROW: u32 = 1000;

/// Builds one kind of index over parts.
type Build = fn(Vec<Part>) -> Result<Box<dyn Search>, IndexError>;

fn faiss(
    factory: &str,
    nprobe: Option<usize>,
    parts: &[Part],
) -> Result<Box<dyn Search>, IndexError> {
    let ef_search = factory.contains("HNSW").then_some(64);
    let spec = IndexSpec {
        nprobe,
        ef_search,
        ..IndexSpec::new(factory)
    };
    Ok(Box::new(FaissIndex::build(&spec, parts, 1)?))
}

fn exact(parts: Vec<Part>) -> Result<Box<dyn Search>, IndexError> {
    Ok(Box::new(ExactIndex::new(parts, tch::Device::Cpu)?))
}

/// Kind, how to build it, and its floor of recall@10 on clustered vectors; 1 = exact, ties and all.
const KINDS: [(&str, Build, f64); 8] = [
    ("exact", exact, 1.0),
    ("Flat", |parts| faiss("Flat", None, &parts), 1.0),
    (
        "IVF32,Flat",
        |parts| faiss("IVF32,Flat", Some(8), &parts),
        0.95,
    ),
    (
        "IVF32,SQ8",
        |parts| faiss("IVF32,SQ8", Some(8), &parts),
        0.93,
    ),
    ("HNSW32", |parts| faiss("HNSW32", None, &parts), 0.95),
    ("PQ16", |parts| faiss("PQ16", None, &parts), 0.65),
    (
        "IVF32,PQ16",
        |parts| faiss("IVF32,PQ16", Some(8), &parts),
        0.75,
    ),
    (
        "OPQ16,IVF16,PQ16x4fs",
        |parts| faiss("OPQ16,IVF16,PQ16x4fs", Some(16), &parts),
        0.33,
    ),
];

/// Unit vectors around 40 centres.
fn clustered(count: usize, seed: u64) -> Vec<f16> {
    let mut centre_rng = ChaCha8Rng::seed_from_u64(99);
    let centres: Vec<f32> = (0..40 * DIM)
        .map(|_| centre_rng.random_range(-1.0..1.0))
        .collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut values = Vec::with_capacity(count * DIM);
    for _ in 0..count {
        let centre = rng.random_range(0..40) * DIM;
        let row: Vec<f32> = (0..DIM)
            .map(|d| centres[centre + d] + rng.random_range(-0.5..0.5))
            .collect();
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        values.extend(row.iter().map(|x| f16::from_f32(x / norm)));
    }
    values
}

/// Vectors of few small whole numbers: every product is exact in f32 in any order of summation, and many rows tie.
fn whole_numbers(count: usize, seed: u64) -> Vec<f16> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut values: Vec<f16> = (0..count * DIM)
        .map(|_| f16::from_f32(f32::from(rng.random_range(-1i8..=1))))
        .collect();
    // The second half repeats the first.
    let half = count / 2 * DIM;
    values.copy_within(..half, half);
    values
}

/// Two parts, split where no tile and no power of two is.
fn parts(values: &[f16]) -> Vec<Part> {
    let (left, right) = values.split_at(values.len() / DIM * 3 / 7 * DIM);
    let second_row = FIRST_ROW + (left.len() / DIM) as u32;
    vec![
        Part::new(FIRST_ROW, DIM, left.to_vec()).unwrap(),
        Part::new(second_row, DIM, right.to_vec()).unwrap(),
    ]
}

fn widened(values: &[f16]) -> Vec<f32> {
    values.iter().map(|value| value.to_f32()).collect()
}

fn brute_force(values: &[f16], queries: &[f32], k: usize) -> Vec<Vec<Hit>> {
    let values = widened(values);
    let hits = |query: &[f32]| {
        let dot = |row: &[f32]| row.iter().zip(query).map(|(a, b)| a * b).sum::<f32>();
        let rows = values.chunks(DIM).zip(FIRST_ROW..);
        let mut hits: Vec<Hit> = rows
            .map(|(values, row)| Hit {
                row,
                score: dot(values),
            })
            .collect();
        hits.sort_by(Hit::order);
        hits.truncate(k);
        hits
    };
    queries.chunks(DIM).map(hits).collect()
}

fn recall(found: &[Vec<Hit>], truth: &[Vec<Hit>]) -> f64 {
    let shared = |(found, truth): (&Vec<Hit>, &Vec<Hit>)| {
        truth
            .iter()
            .filter(|hit| found.iter().any(|other| other.row == hit.row))
            .count()
    };
    let hits: usize = found.iter().zip(truth).map(shared).sum();
    hits as f64 / truth.iter().map(Vec::len).sum::<usize>() as f64
}

#[test]
fn recall_against_brute_force() {
    let values = clustered(4000, 1);
    let queries = widened(&clustered(50, 2));
    let truth = brute_force(&values, &queries, 10);
    for (kind, build, floor) in KINDS {
        let found = build(parts(&values)).unwrap().search(&queries, 10).unwrap();
        let recall = recall(&found, &truth);
        println!("{kind}: recall@10 {recall:.3}");
        assert!(
            recall >= floor,
            "{kind}: recall@10 {recall} is below {floor}"
        );
        for (found, truth) in found.iter().zip(&truth).filter(|_| floor == 1.0) {
            let close = found
                .iter()
                .zip(truth)
                .all(|(a, b)| (a.score - b.score).abs() < 1e-5);
            assert!(close, "{kind}: {found:?} is not {truth:?}");
        }
    }
}

#[test]
fn exact_kinds_equal_brute_force_with_all_ties() {
    let values = whole_numbers(3000, 3);
    let queries = widened(&whole_numbers(40, 4));
    for (kind, build, _) in KINDS.iter().filter(|(_, _, floor)| *floor == 1.0) {
        let index = build(parts(&values)).unwrap();
        for k in [1, 3, 10, 100, 2999, 3000] {
            assert_eq!(
                index.search(&queries, k).unwrap(),
                brute_force(&values, &queries, k),
                "{kind}, k {k}"
            );
        }
        // Alone, a query may take another path through the library.
        assert_eq!(
            index.search(&queries[..DIM], 7).unwrap(),
            brute_force(&values, &queries[..DIM], 7),
            "{kind}"
        );
    }
}

#[test]
fn rows_that_all_tie_come_in_order() {
    let values = vec![f16::ONE; 600 * DIM];
    let query = vec![1.0; DIM];
    for (kind, build, _) in KINDS.iter().filter(|(_, _, floor)| *floor == 1.0) {
        let found = build(parts(&values)).unwrap().search(&query, 5).unwrap();
        assert_eq!(found, brute_force(&values, &query, 5), "{kind}");
    }
}

#[test]
fn results_are_ordered_distinct_and_of_the_corpus() {
    let values = clustered(500, 5);
    let queries = widened(&clustered(20, 6));
    for (kind, build, floor) in KINDS {
        let index = build(parts(&values)).unwrap();
        assert_eq!(
            (index.len(), index.dim(), index.is_empty()),
            (500, DIM, false),
            "{kind}"
        );
        for k in [1, 10, 499, 500, 10_000] {
            for hits in index.search(&queries, k).unwrap() {
                assert!(hits.len() <= k.min(500), "{kind}");
                assert!(
                    floor < 1.0 || hits.len() == k.min(500),
                    "{kind}: {} of {k}",
                    hits.len()
                );
                assert!(
                    hits.windows(2).all(|pair| pair[0].order(&pair[1]).is_lt()),
                    "{kind}: out of order"
                );
                assert!(
                    hits.iter()
                        .all(|hit| (FIRST_ROW..FIRST_ROW + 500).contains(&hit.row)),
                    "{kind}"
                );
                let mut rows: Vec<u32> = hits.iter().map(|hit| hit.row).collect();
                rows.sort_unstable();
                rows.dedup();
                assert_eq!(rows.len(), hits.len(), "{kind}: a row occurs twice");
            }
        }
    }
}

#[test]
fn nothing_asked_nothing_found() {
    let values = clustered(500, 5);
    for (kind, build, _) in KINDS {
        let index = build(parts(&values)).unwrap();
        assert!(index.search(&[], 10).unwrap().is_empty(), "{kind}");
        assert_eq!(
            index.search(&[0.5; 2 * DIM], 0).unwrap(),
            [vec![], vec![]],
            "{kind}"
        );
    }
}

#[test]
fn bad_input_is_refused() {
    let values = clustered(500, 5);
    let mut infinite = values.clone();
    infinite[3 * DIM + 1] = f16::INFINITY;
    for (kind, build, _) in KINDS {
        let index = build(parts(&values)).unwrap();
        let wrong = index.search(&vec![0.5; DIM * 2 + 1], 10);
        assert!(matches!(wrong, Err(IndexError::Dimension { .. })), "{kind}");
        let mut query = vec![0.5; 2 * DIM];
        query[DIM] = f32::NAN;
        let nan = index.search(&query, 10);
        assert!(
            matches!(nan, Err(IndexError::NotFinite { row: 1, .. })),
            "{kind}"
        );
        let bad_row = build(parts(&infinite)).and_then(|index| index.search(&[0.5; DIM], 10));
        assert!(
            matches!(bad_row, Err(IndexError::NotFinite { row: 1003, .. })),
            "{kind}"
        );
        assert!(matches!(build(vec![]), Err(IndexError::Empty)), "{kind}");
    }
}

#[test]
fn threads_share_an_index() {
    let values = clustered(2000, 7);
    let queries = widened(&clustered(30, 8));
    for (kind, build, _) in KINDS {
        let index = build(parts(&values)).unwrap();
        let alone = index.search(&queries, 10).unwrap();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| index.search(&queries, 10).unwrap()))
                .collect();
            workers
                .into_iter()
                .for_each(|worker| assert_eq!(worker.join().unwrap(), alone, "{kind}"));
        });
    }
}

#[test]
fn building_twice_gives_the_same_index() {
    let values = clustered(2000, 9);
    let queries = widened(&clustered(30, 10));
    for (kind, build, _) in KINDS {
        let [first, second] =
            [(); 2].map(|()| build(parts(&values)).unwrap().search(&queries, 10).unwrap());
        assert_eq!(first, second, "{kind}");
    }
}
