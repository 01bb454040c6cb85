//! The texts of a file to encode, each with an id.
//!
//! Owns what is said of texts that hardly anybody means to encode: blank ones, and ids that
//! came before. They are counted and keep their rows, as rows are in the order of the lines.
//! Refuses: parsing lines, which is the corpus crate's.

use anyhow::Result;
use quarry_corpus::{Located, Passage, Place, Records, read_texts};
use std::collections::HashSet;
use std::path::Path;

/// Ids and texts in the order of the file.
pub struct Texts {
    records: Records<Passage>,
    ids: HashSet<String>,
    seen: Seen,
}

/// What a file held as far as it was read.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Texts of any kind.
    pub texts: u64,
    blank: Odd,
    repeated: Odd,
}

/// Texts that are odd in one way, and where the first of them stands.
#[derive(Debug, Clone, Default)]
struct Odd {
    count: u64,
    first: Option<Place>,
}

impl Odd {
    fn note(&mut self, place: &Place) {
        self.count += 1;
        self.first.get_or_insert_with(|| place.clone());
    }
}

/// Reads a file to its end before the slow part, so that a fault of its last line costs
/// nothing. `None` for what can be read only once, such as a pipe.
///
/// # Errors
/// If it cannot be read, or a line is malformed.
pub fn survey(path: &Path) -> Result<Option<Seen>> {
    if !path.is_file() {
        return Ok(None);
    }
    let mut texts = Texts::open(path)?;
    texts.by_ref().try_for_each(|text| text.map(|_| ()))?;
    Ok(Some(texts.seen))
}

impl Texts {
    /// Opens a JSON-lines file, plain or `.gz`.
    ///
    /// # Errors
    /// If it cannot be read; faults of its lines come as items.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            records: read_texts(path)?,
            ids: HashSet::new(),
            seen: Seen::default(),
        })
    }

    /// What has been read so far.
    #[must_use]
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    fn note(&mut self, Located { place, value }: Located<Passage>) -> (String, String) {
        let text = value.full_text();
        self.seen.texts += 1;
        if text.trim().is_empty() {
            self.seen.blank.note(&place);
        }
        if !self.ids.insert(value.id.clone()) {
            self.seen.repeated.note(&place);
        }
        (value.id, text)
    }
}

impl Iterator for Texts {
    type Item = Result<(String, String)>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(match self.records.next()? {
            Ok(record) => Ok(self.note(record)),
            Err(error) => Err(error.into()),
        })
    }
}

impl Seen {
    /// A sentence for each kind of odd text.
    #[must_use]
    pub fn oddities(&self) -> Vec<String> {
        let kinds = [(&self.blank, "are blank"), (&self.repeated, "repeat an id")];
        let sentence = |(odd, what): (&Odd, &str)| {
            let first = odd.first.as_ref()?;
            Some(format!(
                "{} of {} texts {what}, the first on {first}; they are encoded as they stand",
                odd.count, self.texts
            ))
        };
        kinds.into_iter().filter_map(sentence).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a file of this text.
    fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("texts.jsonl");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn a_text_is_title_and_body_with_its_id_or_its_line() {
        let (_folder, path) =
            file("\u{feff}{\"_id\":\"a\",\"title\":\"T\",\"text\":\"x\"}\n{\"text\":\"y\"}\n");
        let read: Result<Vec<_>> = Texts::open(&path).unwrap().collect();
        let expected = [("a", "T x"), ("1", "y")];
        assert_eq!(
            read.unwrap(),
            expected.map(|(id, text)| (id.to_owned(), text.to_owned()))
        );
        assert!(survey(&path).unwrap().unwrap().oddities().is_empty());
    }

    #[test]
    fn blank_texts_and_repeated_ids_are_counted_and_kept() {
        let lines = [
            "{\"_id\":\"a\",\"text\":\"x\"}",
            "{\"_id\":\"b\",\"text\":\" \"}",
            "{\"title\":\"\",\"contents\":\"\"}",
            "{\"_id\":\"a\",\"text\":\"y\"}",
        ];
        let (_folder, path) = file(&lines.join("\n"));
        let mut texts = Texts::open(&path).unwrap();
        assert_eq!(texts.by_ref().count(), 4);
        let surveyed = survey(&path).unwrap().unwrap();
        for seen in [texts.seen(), &surveyed] {
            let [blank, repeated] = &seen.oddities()[..] else {
                panic!("{seen:?}");
            };
            assert!(blank.starts_with("2 of 4 texts are blank, the first on line 2 of "));
            assert!(repeated.starts_with("1 of 4 texts repeat an id, the first on line 4 of "));
        }
    }

    #[test]
    fn a_malformed_line_is_found_before_the_work() {
        let (_folder, path) = file("{\"text\":\"x\"}\n[\"b\",\"y\"]\n");
        let message = survey(&path).unwrap_err().to_string();
        assert!(message.starts_with("line 2 of "), "{message}");
        assert!(message.contains("it is not a JSON object"), "{message}");
    }
}
