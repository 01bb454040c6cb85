//! Writing a text index: bounded memory, segments merged into one in the order of rows.

use std::fs;
use std::path::Path;

use tantivy::indexer::NoMergePolicy;
use tantivy::schema::{FAST, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::{Index, IndexWriter, ReloadPolicy, TantivyDocument};

use super::{ANALYZER, DESCRIPTION, Description, Language, ROW, TEXT, VERSION, rows, words};
use crate::IndexError;

/// Memory of the writer in bytes; more passages than fit become segments that are merged at the end. Four times as much
/// took 43 s for three million passages instead of 45, and added to the largest that an inferencer ever needs.
pub(super) const MEMORY: usize = 64 << 20;
/// Passages between two calls of `progress`.
const PROGRESS_STEP: u64 = 1000;

/// Writes a one-segment index of `passages` into the empty folder `dir`; returns how many segments were merged.
pub(super) fn write<T: AsRef<str>>(
    dir: &Path,
    passages: impl IntoIterator<Item = (u32, T)>,
    language: Language,
    memory: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<usize, IndexError> {
    let index = Index::create_in_dir(dir, schema())?;
    index
        .tokenizers()
        .register(ANALYZER, words::analyzer(language));
    // One thread: segments are then runs of rows.
    let mut writer: IndexWriter = index.writer_with_num_threads(1, memory)?;
    writer.set_merge_policy(Box::new(NoMergePolicy));
    let passages = add(&index, &writer, passages, progress)?;
    writer.commit()?;
    let segments = merge_segments(&index, &mut writer)?;
    writer.wait_merging_threads()?;
    let description = Description {
        version: VERSION,
        language,
        passages,
    };
    let path = dir.join(DESCRIPTION);
    let description = serde_json::to_vec(&description).map_err(|error| IndexError::Corrupt {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    fs::write(&path, description).map_err(IndexError::io(path))?;
    Ok(segments)
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

/// Adds the passages; returns how many.
fn add<T: AsRef<str>>(
    index: &Index,
    writer: &IndexWriter,
    passages: impl IntoIterator<Item = (u32, T)>,
    progress: &mut dyn FnMut(u64),
) -> Result<u64, IndexError> {
    let (text_field, row_field) = (
        index.schema().get_field(TEXT)?,
        index.schema().get_field(ROW)?,
    );
    let (mut count, mut last) = (0, None);
    for (row, passage) in passages {
        if last.is_some_and(|last| row <= last) {
            return Err(IndexError::Parts {
                first_row: row,
                problem: "does not follow the row before it",
            });
        }
        last = Some(row);
        let mut document = TantivyDocument::new();
        document.add_text(text_field, passage.as_ref());
        document.add_u64(row_field, u64::from(row));
        writer.add_document(document)?;
        count += 1;
        if count % PROGRESS_STEP == 0 {
            progress(count);
        }
    }
    match count {
        0 => return Err(IndexError::Empty),
        count if count % PROGRESS_STEP != 0 => progress(count),
        _ => {}
    }
    Ok(count)
}

/// Merges the segments in the order of their rows, so that document numbers ascend with rows; returns their number.
fn merge_segments(index: &Index, writer: &mut IndexWriter) -> Result<usize, IndexError> {
    let searcher = index
        .reader_builder()
        .reload_policy(ReloadPolicy::Manual)
        .try_into()?
        .searcher();
    let mut segments = Vec::new();
    for segment in searcher.segment_readers() {
        segments.push((rows(segment)?.get_val(0), segment.segment_id()));
    }
    drop(searcher);
    let count = segments.len();
    if count > 1 {
        segments.sort_unstable_by_key(|(first_row, _)| *first_row);
        let ids: Vec<_> = segments.into_iter().map(|(_, id)| id).collect();
        writer.merge(&ids).wait()?;
    }
    writer.garbage_collect_files().wait()?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SparseIndex;

    /// Little memory makes many segments; merged, they must search as one that was never split.
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
        let built = [("many", 15 << 20), ("one", MEMORY)].map(|(name, memory)| {
            let dir = folder.path().join(name);
            fs::create_dir(&dir).unwrap();
            let segments = write(&dir, passages(), Language::Plain, memory, &mut |_| {}).unwrap();
            (segments, SparseIndex::open(&dir).unwrap())
        });
        let [(many, merged), (one, whole)] = built;
        assert!(many > 1 && one == 1, "{many} segments and {one}");
        for query in [
            "common",
            "term5 common",
            "rare777 term3 word12",
            "term96 term0",
        ] {
            let hits = merged.search(query, 300).unwrap();
            assert_eq!(hits.len(), 300, "{query}");
            assert_eq!(hits, whole.search(query, 300).unwrap(), "{query}");
        }
    }
}
