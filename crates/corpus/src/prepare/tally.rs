//! Applies the policies, and counts what they drop.

use std::collections::{BTreeMap, BTreeSet};

use crate::reader::Located;
use crate::{CorpusError, Place, Policy, Strictness};

/// What was dropped so far.
pub(super) struct Tally {
    pub(super) strictness: Strictness,
    counts: BTreeMap<&'static str, u64>,
    /// By place, because several passes meet the same line.
    malformed: BTreeSet<Place>,
}

impl Tally {
    pub(super) fn new(strictness: Strictness) -> Tally {
        Tally {
            strictness,
            counts: BTreeMap::new(),
            malformed: BTreeSet::new(),
        }
    }

    /// Passes a record on; a malformed line is dropped where the policy allows it. Other errors always end it.
    pub(super) fn accept<T>(
        &mut self,
        record: Result<Located<T>, CorpusError>,
    ) -> Result<Option<Located<T>>, CorpusError> {
        match record {
            Ok(record) => Ok(Some(record)),
            Err(CorpusError::Malformed { place, .. })
                if self.strictness.malformed == Policy::Drop =>
            {
                self.malformed.insert(place);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Counts `many` under `key` where the policy drops, and ends with `error` where it refuses.
    pub(super) fn fault(
        &mut self,
        policy: Policy,
        key: &'static str,
        many: u64,
        error: impl FnOnce() -> CorpusError,
    ) -> Result<(), CorpusError> {
        match policy {
            Policy::Refuse => Err(error()),
            Policy::Drop => {
                self.count(key, many);
                Ok(())
            }
        }
    }

    /// Counts `many` more under `key`.
    pub(super) fn count(&mut self, key: &'static str, many: u64) {
        *self.counts.entry(key).or_default() += many;
    }

    /// The counts by their stable keys, without zeros.
    pub(super) fn into_counts(self) -> BTreeMap<String, u64> {
        let malformed = self.malformed.len() as u64;
        let counts = self
            .counts
            .into_iter()
            .chain([("malformed_lines", malformed)]);
        counts
            .filter(|(_, count)| *count > 0)
            .map(|(key, count)| (key.to_string(), count))
            .collect()
    }
}
