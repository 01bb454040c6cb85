//! The texts of a file, tokenised some thousands at a time.
//!
//! Owns: the order of reading, tokenising and taking. Ahead of who takes them, a thread reads
//! and tokenises the next chunk meanwhile: a GPU need not wait for that, while a processor
//! would only share its cores out. Refuses: encoding.

use crate::texts::{Seen, Texts};
use anyhow::{Result, anyhow};
use quarry_corpus::Tokenize;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Texts of the file that follow each other.
pub struct Chunk {
    /// Their ids.
    pub ids: Vec<String>,
    /// Their content ids, without special tokens.
    pub tokens: Vec<Vec<u32>>,
    /// How long tokenising them took.
    pub tokenising: Duration,
}

/// A file on its way to tokens.
pub struct Chunks<'a> {
    /// What is read.
    pub texts: Texts,
    /// Put before every text.
    pub prefix: &'a str,
    /// Makes the tokens.
    pub tokenizer: &'a dyn Tokenize,
    /// Content tokens kept of a text.
    pub tokens: usize,
    /// Texts of a chunk; the last may hold fewer.
    pub size: usize,
}

impl Chunks<'_> {
    /// Gives every chunk to `take`, in order, and returns what the file held. With `ahead`
    /// the next chunk is made while one is taken.
    ///
    /// # Errors
    /// Those of the file, the tokenizer and `take`: the first ends the work.
    pub fn each(mut self, ahead: bool, mut take: impl FnMut(Chunk) -> Result<()>) -> Result<Seen> {
        if !ahead {
            for chunk in self.by_ref() {
                take(chunk?)?;
            }
            return Ok(self.texts.seen().clone());
        }
        std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::sync_channel(1);
            let reader = scope.spawn(move || {
                for chunk in self.by_ref() {
                    // Nobody listens once a chunk could not be taken.
                    if sender.send(chunk).is_err() {
                        break;
                    }
                }
                self.texts.seen().clone()
            });
            for chunk in receiver {
                take(chunk?)?;
            }
            reader
                .join()
                .map_err(|_| anyhow!("the thread that reads and tokenises the texts panicked"))
        })
    }
}

impl Iterator for Chunks<'_> {
    type Item = Result<Chunk>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut ids, mut texts) = (Vec::new(), Vec::new());
        for text in self.texts.by_ref().take(self.size) {
            let (id, text) = match text {
                Ok(text) => text,
                Err(error) => return Some(Err(error)),
            };
            ids.push(id);
            texts.push(format!("{}{text}", self.prefix));
        }
        if texts.is_empty() {
            return None;
        }
        let started = Instant::now();
        let tokens = self.tokenizer.content_ids(&texts, self.tokens);
        let tokenising = started.elapsed();
        Some(tokens.map_err(anyhow::Error::msg).map(|tokens| Chunk {
            ids,
            tokens,
            tokenising,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use std::path::Path;

    /// The number of bytes of a text is its one token.
    struct Lengths;

    impl Tokenize for Lengths {
        fn content_ids(&self, texts: &[String], most: usize) -> Result<Vec<Vec<u32>>, String> {
            Ok(texts
                .iter()
                .map(|text| vec![text.len() as u32; most])
                .collect())
        }

        fn digest(&self) -> String {
            "lengths".to_owned()
        }
    }

    fn chunks(path: &Path) -> Chunks<'static> {
        Chunks {
            texts: Texts::open(path).unwrap(),
            prefix: "> ",
            tokenizer: &Lengths,
            tokens: 1,
            size: 2,
        }
    }

    fn file(lines: &[&str]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("texts.jsonl");
        std::fs::write(&path, lines.join("\n")).unwrap();
        (folder, path)
    }

    #[test]
    fn chunks_come_in_order_ahead_or_not() {
        let (_folder, path) = file(&[
            r#"{"_id":"a","text":"1"}"#,
            r#"{"_id":"b","text":"12"}"#,
            r#"{"_id":"c","text":"123"}"#,
        ]);
        for ahead in [false, true] {
            let mut taken = Vec::new();
            let seen = chunks(&path).each(ahead, |chunk| {
                taken.push((chunk.ids.join(" "), chunk.tokens.concat()));
                Ok(())
            });
            assert_eq!(seen.unwrap().texts, 3);
            let expected = [("a b", vec![3, 4]), ("c", vec![5])];
            let expected = expected.map(|(ids, tokens)| (ids.to_owned(), tokens));
            assert_eq!(taken, expected, "ahead: {ahead}");
        }
    }

    #[test]
    fn the_first_error_ends_the_work() {
        let (_folder, path) = file(&[r#"{"text":"1"}"#, r#"{"text":"2"}"#, "[]"]);
        for ahead in [false, true] {
            let mut taken = 0;
            let faulty = chunks(&path).each(ahead, |_| {
                taken += 1;
                Ok(())
            });
            let said = faulty.unwrap_err().to_string();
            assert!(said.contains("line 3 of "), "{said}");
            assert_eq!(taken, 1, "ahead: {ahead}");
            let refused = chunks(&path).each(ahead, |_| bail!("no more"));
            assert_eq!(refused.unwrap_err().to_string(), "no more");
        }
    }
}
