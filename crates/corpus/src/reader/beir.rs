//! BEIR: `corpus.jsonl`, `queries.jsonl`, `qrels/<split>.tsv` with the header `query-id corpus-id score`.

use std::path::Path;

use serde::Deserialize;

use super::fields::{Id, checked_id, columns, grade, json};
use super::{Records, files, lines};
use crate::{CorpusError, Format, Judgement, Passage, Query};

#[derive(Deserialize)]
struct PassageLine {
    _id: Id,
    #[serde(default)]
    title: Option<String>,
    text: String,
}

#[derive(Deserialize)]
struct QueryLine {
    _id: Id,
    text: String,
}

pub(crate) fn passages(dir: &Path) -> Result<Records<Passage>, CorpusError> {
    read_passages(&files::require(dir, "corpus.jsonl", "the corpus")?)
}

/// The passages of a JSON-lines file in the layout of BEIR's corpus (`_id`, `text`, optional `title`), plain or `.gz`.
///
/// # Errors
/// [`CorpusError::Io`] now, faults of single lines as items.
pub fn read_passages(path: &Path) -> Result<Records<Passage>, CorpusError> {
    lines::records(path, |_, line| {
        let PassageLine { _id, title, text } = json(line)?;
        let title = title.unwrap_or_default();
        Ok(Some(Passage {
            id: _id.0,
            title,
            text,
        }))
    })
}

pub(crate) fn queries(dir: &Path) -> Result<Records<Query>, CorpusError> {
    let path = files::require(dir, "queries.jsonl", "the file of queries")?;
    lines::records(&path, |_, line| {
        let QueryLine { _id, text } = json(line)?;
        Ok(Some(Query { id: _id.0, text }))
    })
}

pub(crate) fn judgements(dir: &Path, split: &str) -> Result<Records<Judgement>, CorpusError> {
    let name = format!("{split}.tsv");
    let path = files::find(&dir.join("qrels"), &name)?
        .ok_or_else(|| Format::Beir.missing_split(dir, split, &format!("qrels/{name}")))?;
    lines::records(&path, |number, line| {
        let [query, passage, score] = columns(line)?;
        match grade(score) {
            Ok(grade) => Ok(Some(Judgement {
                query: checked_id(query)?,
                passage: checked_id(passage)?,
                grade,
            })),
            // The header, where there is one; a grade of 1.0 is no header.
            Err(_) if number == 1 && score.trim().parse::<f64>().is_err() => Ok(None),
            Err(reason) => Err(reason),
        }
    })
}
