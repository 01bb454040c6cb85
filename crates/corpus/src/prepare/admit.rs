//! Which records of a stream count: well-formed, with text, seen for the first time.

use std::collections::HashSet;
use std::path::Path;

use super::duplicates::{DuplicateFinder, Duplicates};
use super::tally::Tally;
use crate::reader::{Located, Records};
use crate::{CorpusError, Passage, Policy, Query, text_hash};

/// A record that has an id and a text.
pub(super) trait Entry {
    /// Its name in messages.
    const WHAT: &'static str;
    /// The key of dropped empty ones.
    const EMPTY: &'static str;
    /// The key of dropped repetitions.
    const DUPLICATE: &'static str;

    fn id(&self) -> &str;
    fn is_blank(&self) -> bool;
    /// The same for two records that would be encoded alike.
    fn text_hash(&self) -> u64;
}

impl Entry for Passage {
    const WHAT: &'static str = "passage";
    const EMPTY: &'static str = "empty_passages";
    const DUPLICATE: &'static str = "duplicate_passages";

    fn id(&self) -> &str {
        &self.id
    }

    /// A title alone is text too: it is what would be encoded.
    fn is_blank(&self) -> bool {
        self.title.trim().is_empty() && self.text.trim().is_empty()
    }

    fn text_hash(&self) -> u64 {
        text_hash(&self.full_text())
    }
}

impl Entry for Query {
    const WHAT: &'static str = "query";
    const EMPTY: &'static str = "empty_queries";
    const DUPLICATE: &'static str = "duplicate_queries";

    fn id(&self) -> &str {
        &self.id
    }

    fn is_blank(&self) -> bool {
        self.text.trim().is_empty()
    }

    fn text_hash(&self) -> u64 {
        text_hash(&self.text)
    }
}

/// The outcome of a first pass: enough to tell on a second one which records count.
pub(super) struct Admitted {
    entries: u64,
    duplicates: Duplicates,
}

impl Admitted {
    /// Records that count.
    pub(super) fn kept(&self) -> u64 {
        self.entries - self.duplicates.all.count
    }

    /// Whether the well-formed record with text that has this ordinal counts.
    pub(super) fn keeps(&self, ordinal: u64) -> bool {
        !self.duplicates.contains(ordinal)
    }
}

/// A stream of records that can be opened again.
pub(super) struct Stream<'a, F> {
    pub(super) open: F,
    /// Whether repetitions are no fault as long as their texts are equal.
    pub(super) union: bool,
    /// Where the collection lies, for messages.
    pub(super) dir: &'a Path,
    /// Where temporary files may lie.
    pub(super) spill: &'a Path,
}

/// A well-formed record on its way through [`Stream::admit`].
pub(super) enum Met<T> {
    /// It has text; whether it is the first of its id is known only at the end.
    Full(Located<T>),
    /// It has none, and the policy dropped it.
    Blank(T),
}

impl<F> Stream<'_, F> {
    /// Runs through the stream, applies the policies and shows every well-formed record to `visit`.
    pub(super) fn admit<T: Entry>(
        &self,
        tally: &mut Tally,
        mut visit: impl FnMut(Met<T>),
    ) -> Result<Admitted, CorpusError>
    where
        F: Fn() -> Result<Records<T>, CorpusError>,
    {
        let strictness = tally.strictness;
        let mut finder = DuplicateFinder::new(self.spill);
        let mut blanks = HashSet::new();
        for record in (self.open)()? {
            let Some(record) = tally.accept(record)? else {
                continue;
            };
            let id = record.value.id();
            if !record.value.is_blank() {
                let text = match self.union {
                    true => record.value.text_hash(),
                    false => 0,
                };
                finder.insert(id, text)?;
                visit(Met::Full(record));
                continue;
            }
            // A union meets the same empty passage again and again, but it is one.
            if !self.union || blanks.insert(id.to_string()) {
                tally.fault(strictness.empty_text, T::EMPTY, 1, || {
                    CorpusError::EmptyText {
                        what: T::WHAT,
                        id: id.to_string(),
                        place: record.place.clone(),
                    }
                })?;
            }
            visit(Met::Blank(record.value));
        }
        let entries = finder.len();
        let duplicates = finder.finish()?;
        let faults = match self.union {
            true => duplicates.changed,
            false => duplicates.all,
        };
        if let Some(pair) = faults.first {
            match strictness.duplicate_id {
                Policy::Refuse => return Err(self.describe((self.open)()?, pair)),
                Policy::Drop => tally.count(T::DUPLICATE, faults.count),
            }
        }
        Ok(Admitted {
            entries,
            duplicates,
        })
    }

    /// Reads `records`, the stream again, up to the repetition, to say where it and the first occurrence are.
    fn describe<T: Entry>(&self, records: Records<T>, (first, again): (u64, u64)) -> CorpusError {
        // Malformed lines were counted or refused by the first pass.
        let entries = records
            .filter_map(Result::ok)
            .filter(|record| !record.value.is_blank());
        let mut places = Vec::new();
        for (ordinal, record) in (0..).zip(entries) {
            if ordinal == first || ordinal == again {
                places.push((record.value.id().to_string(), record.place));
            }
            if ordinal == again {
                break;
            }
        }
        let what = T::WHAT;
        match (<[_; 2]>::try_from(places), self.union) {
            (Ok([(id, first), (_, again)]), true) => CorpusError::OtherText {
                what,
                id,
                first,
                again,
            },
            (Ok([(id, first), (_, again)]), false) => CorpusError::Duplicate {
                what,
                id,
                first,
                again,
            },
            (Err(_), _) => CorpusError::Changed {
                dir: self.dir.to_path_buf(),
                reason: format!("a repeated {what} id is gone"),
            },
        }
    }
}
