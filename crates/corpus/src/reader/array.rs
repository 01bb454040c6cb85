//! A JSON array of objects, element by element: only one element is in memory.

use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use super::{Located, files};
use crate::{CorpusError, Place};

/// The objects of a top-level JSON array as raw bytes, each with the line it begins on. It finds their ends by brackets
/// and quotes and leaves the parsing to the caller; a fault between elements ends the stream.
pub(crate) struct Elements {
    reader: Box<dyn BufRead + Send>,
    file: Arc<Path>,
    line: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Start,
    AfterElement,
    Ended,
}

impl Elements {
    pub(crate) fn open(path: &Path) -> Result<Elements, CorpusError> {
        let mut reader = files::open(path)?;
        files::skip_mark(reader.as_mut()).map_err(CorpusError::reading(path))?;
        Ok(Elements {
            reader,
            file: Arc::from(path),
            line: 1,
            state: State::Start,
        })
    }

    fn place(&self) -> Place {
        Place {
            file: self.file.clone(),
            line: self.line,
        }
    }

    fn broken(&self, reason: &str) -> CorpusError {
        CorpusError::Broken {
            place: self.place(),
            reason: reason.to_string(),
        }
    }

    fn byte(&mut self) -> Result<Option<u8>, CorpusError> {
        let byte = match self.reader.fill_buf() {
            Ok(buffer) => buffer.first().copied(),
            Err(error) => return Err(CorpusError::reading(&self.file)(error)),
        };
        if byte.is_some() {
            self.reader.consume(1);
        }
        Ok(byte)
    }

    /// The next byte that is no white space.
    fn token(&mut self) -> Result<Option<u8>, CorpusError> {
        loop {
            match self.byte()? {
                Some(b'\n') => self.line += 1,
                Some(b' ' | b'\t' | b'\r') => {}
                other => return Ok(other),
            }
        }
    }

    fn element(&mut self) -> Result<Option<Located<Vec<u8>>>, CorpusError> {
        let begin = match (self.state, self.token()?) {
            (State::Start, Some(b'[')) => self.token()?,
            (State::Start, _) => return Err(self.broken("it is no JSON array")),
            (_, Some(b',')) => match self.token()? {
                Some(b']') => return Err(self.broken("a comma stands before the end of the array")),
                other => other,
            },
            (_, Some(b']')) => Some(b']'),
            (_, Some(_)) => return Err(self.broken("there is no comma between two elements")),
            (_, None) => None,
        };
        match begin {
            Some(b'{') => {
                let place = self.place();
                let value = self.object()?;
                Ok(Some(Located { place, value }))
            }
            Some(b']') if self.token()?.is_none() => Ok(None),
            Some(b']') => Err(self.broken("something follows the end of the array")),
            Some(_) => Err(self.broken("an element is no object")),
            None => Err(self.broken("the file ends inside the array")),
        }
    }

    /// The rest of an object whose `{` was read.
    fn object(&mut self) -> Result<Vec<u8>, CorpusError> {
        let mut scan = Scan::default();
        let mut bytes = vec![b'{'];
        scan.step(b'{');
        while scan.depth > 0 {
            let chunk = self
                .reader
                .fill_buf()
                .map_err(CorpusError::reading(&self.file))?;
            let end = chunk
                .iter()
                .position(|byte| scan.step(*byte))
                .map_or(chunk.len(), |at| at + 1);
            bytes.extend_from_slice(&chunk[..end]);
            if end == 0 {
                return Err(self.broken("the file ends inside an object"));
            }
            self.line += chunk[..end].iter().filter(|byte| **byte == b'\n').count() as u64;
            self.reader.consume(end);
        }
        Ok(bytes)
    }
}

/// Counts brackets outside strings.
#[derive(Default)]
struct Scan {
    depth: u32,
    string: bool,
    escaped: bool,
}

impl Scan {
    /// Takes a byte; true when it closes the outermost bracket.
    fn step(&mut self, byte: u8) -> bool {
        if self.string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth -= 1,
            _ => {}
        }
        self.depth == 0
    }
}

impl Iterator for Elements {
    type Item = Result<Located<Vec<u8>>, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.state == State::Ended {
            return None;
        }
        let element = self.element().transpose();
        self.state = match &element {
            Some(Ok(_)) => State::AfterElement,
            _ => State::Ended,
        };
        element
    }
}
