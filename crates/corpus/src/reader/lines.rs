//! Lines of UTF-8 with their numbers.

use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use super::{Located, Records, files};
use crate::{CorpusError, Place};

/// The lines of a file, without line ends; blank lines are counted and skipped. A line that is no UTF-8 is malformed.
pub(crate) struct Lines {
    reader: Box<dyn BufRead + Send>,
    file: Arc<Path>,
    line: u64,
    buffer: Vec<u8>,
    ended: bool,
}

impl Lines {
    pub(crate) fn open(path: &Path) -> Result<Lines, CorpusError> {
        let mut reader = files::open(path)?;
        files::skip_mark(reader.as_mut()).map_err(CorpusError::reading(path))?;
        Ok(Lines {
            reader,
            file: Arc::from(path),
            line: 0,
            buffer: Vec::new(),
            ended: false,
        })
    }

    fn place(&self) -> Place {
        Place {
            file: self.file.clone(),
            line: self.line,
        }
    }

    fn text(&self) -> Result<Located<String>, CorpusError> {
        let bytes = self.buffer.strip_suffix(b"\n").unwrap_or(&self.buffer);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Located {
                place: self.place(),
                value: text.to_string(),
            }),
            Err(error) => Err(CorpusError::Malformed {
                place: self.place(),
                reason: format!("it is not UTF-8 from byte {} on", error.valid_up_to() + 1),
            }),
        }
    }
}

impl Iterator for Lines {
    type Item = Result<Located<String>, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            self.buffer.clear();
            match self.reader.read_until(b'\n', &mut self.buffer) {
                Ok(0) => self.ended = true,
                Ok(_) => {
                    self.line += 1;
                    if !self.buffer.trim_ascii().is_empty() {
                        return Some(self.text());
                    }
                }
                Err(source) => {
                    self.ended = true;
                    return Some(Err(CorpusError::reading(&self.file)(source)));
                }
            }
        }
        None
    }
}

/// The records of a file of lines. `parse` is given the line's number and text; `Ok(None)` passes over a line (a
/// header), `Err` says what is wrong with it.
pub(crate) fn records<T: 'static>(
    path: &Path,
    parse: impl Fn(u64, &str) -> Result<Option<T>, String> + Send + 'static,
) -> Result<Records<T>, CorpusError> {
    let parsed = move |line: Result<Located<String>, CorpusError>| {
        let Located { place, value } = match line {
            Ok(line) => line,
            Err(error) => return Some(Err(error)),
        };
        match parse(place.line, &value) {
            Ok(Some(value)) => Some(Ok(Located { place, value })),
            Ok(None) => None,
            Err(reason) => Some(Err(CorpusError::Malformed { place, reason })),
        }
    };
    Ok(Box::new(Lines::open(path)?.filter_map(parsed)))
}

/// Spreads each record into the parts it carries, all at the place of the record.
pub(crate) fn spread<T: 'static, P: Send + 'static, I>(
    records: Records<T>,
    parts: impl Fn(T) -> Result<I, String> + Send + 'static,
) -> Records<P>
where
    I: IntoIterator<Item = P> + 'static,
    I::IntoIter: Send,
{
    let spread = move |record: Result<Located<T>, CorpusError>| -> Records<P> {
        let spread = record.and_then(|Located { place, value }| match parts(value) {
            Ok(parts) => Ok((place, parts)),
            Err(reason) => Err(CorpusError::Malformed { place, reason }),
        });
        match spread {
            Ok((place, parts)) => Box::new(parts.into_iter().map(move |value| {
                let place = place.clone();
                Ok(Located { place, value })
            })),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    };
    Box::new(records.flat_map(spread))
}
