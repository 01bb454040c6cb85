//! JSON lines that carry a text each, with or without an id: what is encoded outside any collection.

use std::path::Path;

use serde::Deserialize;

use super::fields::{Id, json};
use super::{Records, lines};
use crate::{CorpusError, Passage};

#[derive(Deserialize)]
struct TextLine {
    _id: Option<Id>,
    title: Option<String>,
    text: Option<String>,
    contents: Option<String>,
}

/// The texts of a JSON-lines file, plain or `.gz`: objects with `text` (or `contents`), perhaps `title` and `_id`. A text
/// without an id has the number of its line, from 0. Blank texts and repeated ids are for the caller to judge.
///
/// # Errors
/// [`CorpusError::Io`], [`CorpusError::Gzip`] or [`CorpusError::UnnamedGzip`] now, faults of single lines as items.
pub fn read_texts(path: &Path) -> Result<Records<Passage>, CorpusError> {
    lines::records(path, |number, line| {
        let TextLine {
            _id,
            title,
            text,
            contents,
        } = json(line)?;
        let text = text
            .or(contents)
            .ok_or("it has neither `text` nor `contents`")?;
        Ok(Some(Passage {
            id: _id.map_or_else(|| (number - 1).to_string(), |id| id.0),
            title: title.unwrap_or_default(),
            text,
        }))
    })
}
