//! The BM25 index over the whole corpus: built once a machine, kept in the
//! cache folder under the corpus digest and the language, opened once a process.

use crate::collection::Collection;
use crate::depot::Depot;
use crate::error::{Result, refuse};
use crate::progress::Progress;
use quarry_corpus::Corpus;
use quarry_index::{Language, SparseIndex};
use quarry_torch_ext::release_spare_memory;
use std::fs::File;
use std::path::Path;
use std::time::Instant;

/// Passages between two returns of what the writer's threads gave back: each keeps its own spare memory, and a segment
/// has a thread of its own.
const RELEASE_STEP: u64 = 100_000;

/// Passages whose words decide the language under `data.language = "auto"`.
const SAMPLE: usize = 1000;

/// Opens the corpus's index in `language` (a name, or `auto`), building it if
/// the machine has none yet.
pub(crate) fn open(
    depot: &Depot,
    collection: &mut Collection,
    language: &str,
    progress: &Progress,
) -> Result<SparseIndex> {
    let corpus = collection.corpus(depot)?;
    let passages = &corpus.passages;
    let language: Language = match language {
        "auto" => Language::detect(passages.texts().take(SAMPLE).map(|(_, text)| text)),
        name => name.parse()?,
    };
    let home = depot.shared_folder().join("bm25");
    let name = format!("{}-{language}", collection.short_digest());
    depot.scratch_error(std::fs::create_dir_all(&home))?;
    // Workers that share the folder: one builds, the others wait and open.
    let lock = depot.scratch_error(File::create(home.join(format!("{name}.lock"))))?;
    depot.scratch_error(lock.lock())?;
    let dir = home.join(&name);
    let index = match dir.is_dir() {
        true => SparseIndex::open(&dir)?,
        false => build(&dir, passages, language, progress)?,
    };
    if index.len() != passages.passages() {
        return refuse(format!(
            "the BM25 index in {} holds {} of {} passages; remove the folder and start the worker again",
            dir.display(),
            index.len(),
            passages.passages()
        ));
    }
    Ok(index)
}

fn build(
    dir: &Path,
    passages: &Corpus,
    language: Language,
    progress: &Progress,
) -> Result<SparseIndex> {
    let started = Instant::now();
    progress.begin(passages.passages());
    let mut before = 0;
    // A cancellation waits: the index will serve the next task all the same.
    let mut count = |done: u64| {
        let _ = progress.advance((done - before) as usize);
        if done / RELEASE_STEP > before / RELEASE_STEP {
            release_spare_memory();
        }
        before = done;
    };
    let index = SparseIndex::build(dir, passages.texts(), language, &mut count)?;
    // A writer's memory is of no use to the encoder.
    release_spare_memory();
    progress.check()?;
    let seconds = started.elapsed().as_secs_f64();
    tracing::info!(%language, seconds, folder = %dir.display(), "bm25 index built");
    Ok(index)
}
