//! The texts of a file to encode, each with an id of its own.
//!
//! Owns the refusal, with file and line, of what would be encoded to no purpose: a blank text, an id that came before.
//! Refuses: parsing lines, which is the corpus crate's.

use anyhow::{Result, bail};
use quarry_corpus::{Located, Passage, Records, read_texts};
use std::collections::HashMap;
use std::path::Path;

/// Ids and texts in the order of the file.
pub struct Texts {
    records: Records<Passage>,
    /// The line of every id so far.
    lines: HashMap<String, u64>,
}

impl Texts {
    /// Opens a JSON-lines file, plain or `.gz`.
    ///
    /// # Errors
    /// If it cannot be read; faults of its lines come as items.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            records: read_texts(path)?,
            lines: HashMap::new(),
        })
    }

    fn check(&mut self, Located { place, value }: Located<Passage>) -> Result<(String, String)> {
        let text = value.full_text();
        let id = value.id;
        if text.trim().is_empty() {
            bail!("{place} has no text for the id {id:?}; give it one or remove the line");
        }
        if let Some(first) = self.lines.insert(id.clone(), place.line) {
            bail!("{place} repeats the id {id:?} of line {first}; make it unique");
        }
        Ok((id, text))
    }
}

impl Iterator for Texts {
    type Item = Result<(String, String)>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(match self.records.next()? {
            Ok(record) => self.check(record),
            Err(error) => Err(error.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, String)>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("texts.jsonl");
        std::fs::write(&path, text).unwrap();
        Texts::open(&path)?.collect()
    }

    #[test]
    fn a_text_is_title_and_body_with_its_id_or_its_line() {
        let read =
            read("\u{feff}{\"_id\":\"a\",\"title\":\"T\",\"text\":\"x\"}\n{\"text\":\"y\"}\n");
        let expected = [("a", "T x"), ("1", "y")];
        assert_eq!(
            read.unwrap(),
            expected.map(|(id, text)| (id.to_owned(), text.to_owned()))
        );
    }

    #[test]
    fn blank_texts_and_repeated_ids_are_refused_with_their_line() {
        let good = "{\"_id\":\"a\",\"text\":\"x\"}\n";
        for (line, reason) in [
            (
                "{\"_id\":\"b\",\"text\":\" \"}",
                "has no text for the id \"b\"",
            ),
            (
                "{\"title\":\"\",\"contents\":\"\"}",
                "has no text for the id \"1\"",
            ),
            (
                "{\"_id\":\"a\",\"text\":\"y\"}",
                "repeats the id \"a\" of line 1",
            ),
            ("[\"b\",\"y\"]", "it is not a JSON object"),
        ] {
            let message = read(&format!("{good}{line}\n")).unwrap_err().to_string();
            assert!(
                message.starts_with("line 2 of ") && message.contains(reason),
                "{message}"
            );
        }
    }
}
