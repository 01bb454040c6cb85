//! Queries of one split that ask the same question in the same words.
//!
//! Owns: which queries have equal texts, and what is relevant to any of them. Collections often judge one question
//! under several ids, each with its own passage; what one id calls relevant is then no negative of the other. Refuses:
//! paraphrases, and the queries of another split, whose judgements must not leak.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{QuerySet, text_hash};

/// For each query whose text another query of the set repeats: the rows relevant to any of them, ascending, each once.
/// Empty for a set of distinct texts. Takes a sort of the texts' hashes: O(n log n).
pub(crate) fn shared_positives(queries: &QuerySet) -> BTreeMap<u32, Arc<[u32]>> {
    let mut by_text: Vec<(u64, u32)> = (0..queries.len())
        .map(|query| (text_hash(queries.text(query)), query as u32))
        .collect();
    by_text.sort_unstable();
    let mut shared = BTreeMap::new();
    for twins in by_text.chunk_by(|one, two| one.0 == two.0) {
        if twins.len() > 1 {
            let own = |(_, query): &(u64, u32)| queries.positives(*query as usize);
            let rows: Arc<[u32]> = ascending(twins.iter().flat_map(own)).into();
            shared.extend(twins.iter().map(|(_, query)| (*query, Arc::clone(&rows))));
        }
    }
    shared
}

/// The rows in order, each once.
pub(crate) fn ascending(rows: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut rows: Vec<u32> = rows.collect();
    rows.sort_unstable();
    rows.dedup();
    rows
}
