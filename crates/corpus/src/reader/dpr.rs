//! DPR: a JSON array a split, of `question`, `positive_ctxs`, `negative_ctxs`, `hard_negative_ctxs`; the corpus is
//! `psgs_w100.tsv` (`id TAB text TAB title`, quoted as CSV) where present, otherwise what the records carry.
//!
//! Questions have no ids there: the n-th record of a split (from 0) is `<split>-n`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::array::Elements;
use super::fields::{Id, Object, checked_id, json_reason};
use super::{Located, Records, files, lines};
use crate::{CorpusError, Format, Judgement, Passage, Place, Query};

pub(crate) const CORPUS: &str = "psgs_w100.tsv";

#[derive(Deserialize)]
struct Record {
    question: String,
    #[serde(default)]
    positive_ctxs: Vec<Object<Context>>,
    #[serde(default)]
    negative_ctxs: Vec<Object<Context>>,
    #[serde(default)]
    hard_negative_ctxs: Vec<Object<Context>>,
}

#[derive(Deserialize)]
struct Context {
    /// Older files say `psg_id`.
    #[serde(alias = "psg_id")]
    passage_id: Id,
    #[serde(default)]
    title: Option<String>,
    text: String,
}

impl From<Context> for Passage {
    fn from(
        Context {
            passage_id,
            title,
            text,
        }: Context,
    ) -> Passage {
        let title = title.unwrap_or_default();
        Passage {
            id: passage_id.0,
            title,
            text,
        }
    }
}

pub(crate) fn passages(dir: &Path, splits: &[String]) -> Result<Records<Passage>, CorpusError> {
    if let Some(path) = files::find(dir, CORPUS)? {
        return lines::records(&path, |number, line| {
            let columns = unquoted(line)?;
            let [id, text, title] = &columns[..] else {
                return Err(format!(
                    "it has {} tab-separated columns and not 3",
                    columns.len()
                ));
            };
            if number == 1 && id == "id" {
                return Ok(None);
            }
            Ok(Some(Passage {
                id: checked_id(id)?,
                title: title.clone(),
                text: text.clone(),
            }))
        });
    }
    let mut all: Records<Passage> = Box::new(std::iter::empty());
    for split in splits {
        let carried = lines::spread(records(dir, split)?, |(_, record)| {
            let negatives = record
                .negative_ctxs
                .into_iter()
                .chain(record.hard_negative_ctxs);
            Ok(record
                .positive_ctxs
                .into_iter()
                .chain(negatives)
                .map(|Object(context)| Passage::from(context)))
        });
        all = Box::new(all.chain(carried));
    }
    Ok(all)
}

pub(crate) fn queries(dir: &Path, split: &str) -> Result<Records<Query>, CorpusError> {
    Ok(lines::spread(records(dir, split)?, |(id, record)| {
        let text = record.question;
        Ok(Some(Query { id, text }))
    }))
}

pub(crate) fn judgements(dir: &Path, split: &str) -> Result<Records<Judgement>, CorpusError> {
    Ok(lines::spread(records(dir, split)?, |(query, record)| {
        Ok(record
            .positive_ctxs
            .into_iter()
            .map(move |Object(context)| Judgement {
                query: query.clone(),
                passage: context.passage_id.0,
                grade: 1,
            }))
    }))
}

/// The records of a split with the ids of their questions.
fn records(dir: &Path, split: &str) -> Result<Records<(String, Record)>, CorpusError> {
    let elements = Elements::open(&split_file(dir, split)?)?;
    let split = split.to_string();
    let parsed = move |(index, element): (usize, Result<Located<Vec<u8>>, CorpusError>)| {
        let Located { place, value } = element?;
        match serde_json::from_slice(&value) {
            Ok(record) => Ok(Located {
                place,
                value: (format!("{split}-{index}"), record),
            }),
            Err(error) => Err(CorpusError::Malformed {
                place: Place {
                    line: place.line + (error.line() as u64).saturating_sub(1),
                    ..place
                },
                reason: json_reason(&error),
            }),
        }
    };
    Ok(Box::new(elements.enumerate().map(parsed)))
}

/// `<split>.json`, or the one file whose name ends in `-<split>.json` (`biencoder-nq-train.json`).
fn split_file(dir: &Path, split: &str) -> Result<PathBuf, CorpusError> {
    let name = format!("{split}.json");
    if let Some(path) = files::find(dir, &name)? {
        return Ok(path);
    }
    let end = format!("-{name}");
    let names: Vec<String> = files::names(dir)?
        .into_iter()
        .filter(|found| found.ends_with(&end))
        .collect();
    let expected = format!("{name} or one file *{end}");
    let found = match &names[..] {
        [only] => files::find(dir, only)?,
        _ => None,
    };
    found.ok_or_else(|| Format::Dpr.missing_split(dir, split, &expected))
}

/// The columns of a line of tab-separated values whose fields may be quoted (RFC 4180 with tabs); a field may not span
/// lines.
fn unquoted(line: &str) -> Result<Vec<String>, String> {
    let mut columns = Vec::new();
    let mut rest = line;
    loop {
        let (column, after) = match rest.strip_prefix('"') {
            Some(quoted) => closed(quoted)?,
            None => {
                let end = rest.find('\t').unwrap_or(rest.len());
                (rest[..end].to_string(), &rest[end..])
            }
        };
        columns.push(column);
        match after.strip_prefix('\t') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(columns),
            None => return Err("text follows a closing quote".into()),
        }
    }
}

/// The quoted field at the start of `text`, which lacks its opening quote, and what follows the closing one.
fn closed(text: &str) -> Result<(String, &str), String> {
    let mut column = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"').ok_or("a quote is not closed")?;
        column.push_str(part);
        match after.strip_prefix('"') {
            Some(next) => {
                column.push('"');
                rest = next;
            }
            None => return Ok((column, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_columns() {
        let columns = unquoted("1\t\"Aaron ( \"\"Ahärôn\"\") said\ta\"\tAaron").unwrap();
        assert_eq!(columns, ["1", "Aaron ( \"Ahärôn\") said\ta", "Aaron"]);
        assert_eq!(unquoted("a\t\t").unwrap(), ["a", "", ""]);
        assert_eq!(unquoted("a\tb \"c\"").unwrap(), ["a", "b \"c\""]);
        assert!(unquoted("a\t\"b").is_err());
        assert!(unquoted("a\t\"b\"c").is_err());
    }
}
