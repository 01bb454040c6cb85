//! No live object is deleted: none of an open or kept generation, no record, no
//! run or manifest of a retired one, no checkpoint a trainer may resume from.

use crate::audit::Books;
use crate::generations::{Generation, Stage};
use quarry_artifacts::layout;

/// Whether `path`, which is about to go, may go.
///
/// # Errors
/// What still needs it.
pub fn check_deletion(books: &Books, path: &str) -> Result<(), String> {
    // What came short is no object yet; what is gone cannot go again.
    if !books.objects.is_whole(path) {
        return Ok(());
    }
    let live = |why: &str| Err(format!("retention: {path} was deleted, but {why}"));
    match path.split('/').next() {
        Some("generations") => match generation_of(books, path) {
            Some(generation) => match needs(generation, path) {
                Some(why) => live(why),
                None => Ok(()),
            },
            None => Ok(()),
        },
        Some("checkpoints") => {
            let folder = path.splitn(3, '/').take(2).collect::<Vec<_>>().join("/");
            let manifest = format!("{folder}/{}", layout::MANIFEST);
            match books.ledger.checkpoints.get(&manifest) {
                Some(known) if known.kept => live("its checkpoint is kept"),
                Some(_) => Ok(()),
                // Never announced: the newest may be all that a killed trainer has.
                None if books.objects.is_whole(&manifest) => {
                    live("its checkpoint is complete, and a trainer may resume from it")
                }
                None => Ok(()),
            }
        }
        _ => live("it stays for ever"),
    }
}

fn generation_of<'a>(books: &'a Books, path: &str) -> Option<&'a Generation> {
    let generations = &books.ledger.generations;
    let mut all = generations.iter();
    let of = |number: &u64| path.starts_with(&format!("{}/", layout::generation_folder(*number)));
    all.find(|(number, _)| of(number)).map(|(_, g)| g)
}

/// Why a generation needs an object of its folder, if it does.
fn needs(generation: &Generation, path: &str) -> Option<&'static str> {
    let is_output = || generation.outputs().any(|(_, object)| object.path == path);
    match generation.stage {
        // What lost against another attempt, or was made for a zombie, is nobody's.
        Stage::Open => is_output().then_some("its generation is open"),
        Stage::Kept => {
            let is_manifest = || generation.manifest.as_ref().is_some_and(|m| m.path == path);
            (is_output() || is_manifest()).then_some("its generation is kept")
        }
        Stage::Retired => {
            let mut records = generation.records();
            let is_record = records.any(|object| object.path == path);
            is_record.then_some("it is a record of what was published")
        }
        Stage::Aborted => None,
    }
}
