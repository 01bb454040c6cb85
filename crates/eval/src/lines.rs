//! Numbered lines of a plain or gzipped text file, chosen by the extension `.gz`.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use flate2::{Compression, GzBuilder};

use crate::EvalError;

/// The byte-order mark.
pub(crate) const MARK: char = '\u{feff}';

fn is_gzip(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gz")
}

pub(crate) fn io_error(path: &Path) -> impl Fn(std::io::Error) -> EvalError {
    move |source| EvalError::Io {
        path: path.to_owned(),
        source,
    }
}

/// A failure while the file was read: the system's, or the decompressor's, which has no system's number.
fn read_error(path: &Path, source: std::io::Error) -> EvalError {
    match source.raw_os_error() {
        None if is_gzip(path) => EvalError::Gzip {
            path: path.to_owned(),
            source,
        },
        _ => io_error(path)(source),
    }
}

fn not_utf8(path: &Path, line: usize) -> EvalError {
    EvalError::Malformed {
        path: path.to_owned(),
        line,
        problem: "it is not UTF-8".to_owned(),
        fix: "convert the file to UTF-8",
    }
}

/// Calls `each(line number from 1, line)` for every line that is not blank; a byte-order mark is dropped.
pub(crate) fn for_each_line(
    path: &Path,
    mut each: impl FnMut(usize, &str) -> Result<(), EvalError>,
) -> Result<(), EvalError> {
    let file = File::open(path).map_err(io_error(path))?;
    let reader: Box<dyn Read> = if is_gzip(path) {
        Box::new(MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    for (index, line) in BufReader::new(reader).lines().enumerate() {
        let line = line.map_err(|error| match error.kind() {
            ErrorKind::InvalidData => not_utf8(path, index + 1),
            _ => read_error(path, error),
        })?;
        let line = match index {
            0 => line.strip_prefix(MARK).unwrap_or(&line),
            _ => &line,
        };
        if !line.trim().is_empty() {
            each(index + 1, line)?;
        }
    }
    Ok(())
}

/// Writes a file through `fill`; gzip carries no time stamp, so equal content gives equal bytes.
pub(crate) fn write_lines(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), EvalError> {
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        if is_gzip(path) {
            let mut encoder = GzBuilder::new()
                .mtime(0)
                .write(&mut file, Compression::default());
            fill(&mut encoder)?;
            encoder.finish()?;
        } else {
            fill(&mut file)?;
        }
        file.flush()
    };
    write().map_err(io_error(path))
}

/// Fields of a line: by tabs where there are any (ids may then hold spaces), else by white space.
pub(crate) fn fields(line: &str) -> Vec<&str> {
    if line.contains('\t') {
        line.split('\t').map(str::trim).collect()
    } else {
        line.split_whitespace().collect()
    }
}
