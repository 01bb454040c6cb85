//! Writing a text index in bounded memory: what the writer had to put aside is merged, segment by segment.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use tantivy::index::SegmentId;
use tantivy::indexer::NoMergePolicy;
use tantivy::schema::{FAST, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::{Index, IndexWriter, ReloadPolicy, TantivyDocument};

use super::segment::rows;
use super::{ANALYZER, DESCRIPTION, Description, Language, ROW, TEXT, VERSION, words};
use crate::IndexError;

/// What bounds the memory of writing.
pub(super) struct Sizes {
    /// Bytes of the writer; more passages than fit are put aside, and merged when the segment is complete.
    pub(super) memory: usize,
    /// Passages of a segment, of which a merge keeps up to some 20 bytes each in memory.
    pub(super) segment: usize,
}

impl Sizes {
    /// Four times the memory took 43 s for three million passages instead of 45, and added to the largest that an
    /// inferencer ever needs. A query looks at every segment; MS MARCO's passages are five.
    pub(super) const DEFAULT: Sizes = Sizes {
        memory: 64 << 20,
        segment: 2_000_000,
    };
}

/// Passages between two calls of `progress`.
const PROGRESS_STEP: u64 = 1000;

/// Writes an index of `passages` into the empty folder `dir`; returns how many parts each segment was merged from.
pub(super) fn write<T: AsRef<str>>(
    dir: &Path,
    passages: impl IntoIterator<Item = (u32, T)>,
    language: Language,
    sizes: Sizes,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<usize>, IndexError> {
    let index = Index::create_in_dir(dir, schema())?;
    index
        .tokenizers()
        .register(ANALYZER, words::analyzer(language));
    // One thread: segments are then runs of rows.
    let mut writer: IndexWriter = index.writer_with_num_threads(1, sizes.memory)?;
    writer.set_merge_policy(Box::new(NoMergePolicy));
    let mut passages = Passages {
        rest: passages.into_iter().fuse(),
        count: 0,
        last: None,
        progress,
    };
    let mut segments = Segments::default();
    while passages.add(&index, &writer, sizes.segment)? {
        writer.commit()?;
        segments.complete(&index, &mut writer)?;
    }
    writer.garbage_collect_files().wait()?;
    writer.wait_merging_threads()?;
    let description = Description {
        version: VERSION,
        language,
        passages: passages.finish()?,
    };
    let path = dir.join(DESCRIPTION);
    let description = serde_json::to_vec(&description).map_err(|error| IndexError::Corrupt {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    fs::write(&path, description).map_err(IndexError::io(path))?;
    Ok(segments.parts)
}

/// Term frequencies and lengths for BM25, no positions; the row as a column; no stored text.
fn schema() -> Schema {
    let mut schema = Schema::builder();
    let indexing = TextFieldIndexing::default()
        .set_tokenizer(ANALYZER)
        .set_index_option(IndexRecordOption::WithFreqs)
        .set_fieldnorms(true);
    schema.add_text_field(TEXT, TextOptions::default().set_indexing_options(indexing));
    schema.add_u64_field(ROW, FAST);
    schema.build()
}

/// Passages on their way into the index.
struct Passages<'a, I> {
    rest: I,
    /// How many are in.
    count: u64,
    last: Option<u32>,
    progress: &'a mut dyn FnMut(u64),
}

impl<T: AsRef<str>, I: Iterator<Item = (u32, T)>> Passages<'_, I> {
    /// Adds the next ones, at most `most`; whether there were any.
    fn add(
        &mut self,
        index: &Index,
        writer: &IndexWriter,
        most: usize,
    ) -> Result<bool, IndexError> {
        let (text_field, row_field) = (
            index.schema().get_field(TEXT)?,
            index.schema().get_field(ROW)?,
        );
        let before = self.count;
        for (row, passage) in self.rest.by_ref().take(most) {
            if self.last.is_some_and(|last| row <= last) {
                return Err(IndexError::Parts {
                    first_row: row,
                    problem: "does not follow the row before it",
                });
            }
            self.last = Some(row);
            let mut document = TantivyDocument::new();
            document.add_text(text_field, passage.as_ref());
            document.add_u64(row_field, u64::from(row));
            writer.add_document(document)?;
            self.count += 1;
            if self.count.is_multiple_of(PROGRESS_STEP) {
                (self.progress)(self.count);
            }
        }
        Ok(self.count > before)
    }

    /// How many there were.
    fn finish(self) -> Result<u64, IndexError> {
        match self.count {
            0 => return Err(IndexError::Empty),
            count if !count.is_multiple_of(PROGRESS_STEP) => (self.progress)(count),
            _ => {}
        }
        Ok(self.count)
    }
}

/// The segments that are complete.
#[derive(Default)]
struct Segments {
    /// What tantivy calls them.
    ids: HashSet<SegmentId>,
    /// How many parts each was merged from.
    parts: Vec<usize>,
}

impl Segments {
    /// Merges what was committed since the last one, in the order of its rows: document numbers ascend with them.
    fn complete(&mut self, index: &Index, writer: &mut IndexWriter) -> Result<(), IndexError> {
        let searcher = index
            .reader_builder()
            .reload_policy(ReloadPolicy::Manual)
            .try_into()?
            .searcher();
        let mut parts = Vec::new();
        for part in searcher.segment_readers() {
            if !self.ids.contains(&part.segment_id()) {
                parts.push((rows(part)?.get_val(0), part.segment_id()));
            }
        }
        drop(searcher);
        parts.sort_unstable_by_key(|(first_row, _)| *first_row);
        let parts: Vec<SegmentId> = parts.into_iter().map(|(_, id)| id).collect();
        if parts.len() > 1 {
            writer.merge(&parts).wait()?;
        }
        self.parts.push(parts.len());
        self.ids.extend(index.searchable_segment_ids()?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SparseIndex;

    /// Little memory leaves many parts; neither they nor the segments show in what a search finds.
    #[test]
    fn segmentation_does_not_show() {
        let passages = || {
            (0..60_000u32).map(|row| {
                (
                    row,
                    format!(
                        "term{} rare{row} word{} common",
                        row % 97,
                        row * 7919 % 60_013
                    ),
                )
            })
        };
        let folder = tempfile::tempdir().unwrap();
        let Sizes { memory, segment } = Sizes::DEFAULT;
        let small = 15 << 20;
        // The last two end on a boundary, and do not.
        let sizes = [
            (memory, segment),
            (small, segment),
            (memory, 20_000),
            (small, 25_000),
        ];
        let built = sizes.map(|(memory, segment)| {
            let dir = folder.path().join(format!("{memory}-{segment}"));
            fs::create_dir(&dir).unwrap();
            let sizes = Sizes { memory, segment };
            let parts = write(&dir, passages(), Language::Plain, sizes, &mut |_| {}).unwrap();
            (parts, SparseIndex::open(&dir).unwrap())
        });
        let [whole, merged, segments, both] = built;
        assert_eq!((&whole.0[..], &segments.0[..]), (&[1][..], &[1, 1, 1][..]));
        assert!(merged.0.len() == 1 && merged.0[0] > 1, "{:?}", merged.0);
        assert!(both.0.len() == 3 && both.0[0] > 1, "{:?}", both.0);
        for query in [
            "common",
            "term5 common",
            "rare777 term3 word12",
            "term96 term0",
        ] {
            let hits = whole.1.search(query, 300).unwrap();
            assert_eq!(hits.len(), 300, "{query}");
            for (parts, index) in [&merged, &segments, &both] {
                assert_eq!(
                    index.search(query, 300).unwrap(),
                    hits,
                    "{query}, {parts:?}"
                );
            }
        }
    }
}
