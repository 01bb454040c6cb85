//! Tevatron: `<split>.jsonl` with `query_id`, `query`, `positive_passages`, `negative_passages`; `corpus.jsonl` with
//! `docid`, `title`, `text` where present, otherwise the corpus is what the records carry.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::fields::{Id, Object, json};
use super::{Records, files, lines};
use crate::{CorpusError, Format, Judgement, Passage, Query};

pub(crate) const CORPUS: &str = "corpus.jsonl";

#[derive(Deserialize)]
struct Record {
    query_id: Id,
    query: String,
    #[serde(default)]
    positive_passages: Vec<Object<Carried>>,
    #[serde(default)]
    negative_passages: Vec<Object<Carried>>,
}

#[derive(Deserialize)]
struct Carried {
    docid: Id,
    #[serde(default)]
    title: Option<String>,
    text: String,
}

impl From<Carried> for Passage {
    fn from(Carried { docid, title, text }: Carried) -> Passage {
        let title = title.unwrap_or_default();
        Passage {
            id: docid.0,
            title,
            text,
        }
    }
}

pub(crate) fn passages(dir: &Path, splits: &[String]) -> Result<Records<Passage>, CorpusError> {
    if let Some(path) = files::find(dir, CORPUS)? {
        return lines::records(&path, |_, line| Ok(Some(json::<Carried>(line)?.into())));
    }
    let mut all: Records<Passage> = Box::new(std::iter::empty());
    for split in splits {
        let carried = lines::spread(records(dir, split)?, |record| {
            let passages = record
                .positive_passages
                .into_iter()
                .chain(record.negative_passages);
            Ok(passages.map(|Object(carried)| Passage::from(carried)))
        });
        all = Box::new(all.chain(carried));
    }
    Ok(all)
}

pub(crate) fn queries(dir: &Path, split: &str) -> Result<Records<Query>, CorpusError> {
    Ok(lines::spread(records(dir, split)?, |record| {
        let (id, text) = (record.query_id.0, record.query);
        Ok(Some(Query { id, text }))
    }))
}

pub(crate) fn judgements(dir: &Path, split: &str) -> Result<Records<Judgement>, CorpusError> {
    Ok(lines::spread(records(dir, split)?, |record| {
        let query = record.query_id.0;
        Ok(record
            .positive_passages
            .into_iter()
            .map(move |Object(positive)| Judgement {
                query: query.clone(),
                passage: positive.docid.0,
                grade: 1,
            }))
    }))
}

fn records(dir: &Path, split: &str) -> Result<Records<Record>, CorpusError> {
    lines::records(&split_file(dir, split)?, |_, line| json(line).map(Some))
}

fn split_file(dir: &Path, split: &str) -> Result<PathBuf, CorpusError> {
    let name = format!("{split}.jsonl");
    files::find(dir, &name)?.ok_or_else(|| Format::Tevatron.missing_split(dir, split, &name))
}
