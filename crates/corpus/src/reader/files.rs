//! Finding and opening input files, plain or gzipped.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::CorpusError;

const BUFFER: usize = 1 << 18;

/// How every gzip file begins (RFC 1952), and no text does: 8b is no start of a character in UTF-8.
const GZIP: &[u8] = b"\x1f\x8b";

/// The names of the files in `dir`, sorted, without a final `.gz`.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>, CorpusError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(CorpusError::io("read", dir))? {
        let entry = entry.map_err(CorpusError::io("read", dir))?;
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name.strip_suffix(".gz").map(str::to_string).unwrap_or(name));
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// `dir/name` or `dir/name.gz`, whichever is there.
pub(crate) fn find(dir: &Path, name: &str) -> Result<Option<PathBuf>, CorpusError> {
    let plain = dir.join(name);
    let compressed = dir.join(format!("{name}.gz"));
    match (plain.is_file(), compressed.is_file()) {
        (true, true) => Err(CorpusError::Ambiguous { path: plain }),
        (true, false) => Ok(Some(plain)),
        (false, true) => Ok(Some(compressed)),
        (false, false) => Ok(None),
    }
}

/// [`find`], or an error that says what is missing.
pub(crate) fn require(dir: &Path, name: &str, what: &str) -> Result<PathBuf, CorpusError> {
    find(dir, name)?.ok_or_else(|| CorpusError::Missing {
        what: what.to_string(),
        dir: dir.to_path_buf(),
        expected: format!("{name}, plain or .gz"),
    })
}

/// Opens the file, decompressing it (all members) when its name ends in `.gz`, and refuses a compressed one by another
/// name.
pub(crate) fn open(path: &Path) -> Result<Box<dyn BufRead + Send>, CorpusError> {
    let file = File::open(path).map_err(CorpusError::io("open", path))?;
    let mut plain = BufReader::with_capacity(BUFFER, file);
    let begin = plain.fill_buf().map_err(CorpusError::io("read", path))?;
    let compressed = begin.starts_with(GZIP);
    if path.extension().is_some_and(|extension| extension == "gz") {
        Ok(Box::new(BufReader::with_capacity(
            BUFFER,
            MultiGzDecoder::new(plain),
        )))
    } else if compressed {
        let path = path.to_path_buf();
        Err(CorpusError::UnnamedGzip { path })
    } else {
        Ok(Box::new(plain))
    }
}

/// Skips a byte-order mark.
pub(crate) fn skip_mark(reader: &mut dyn BufRead) -> io::Result<()> {
    if reader.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
        reader.consume(3);
    }
    Ok(())
}
