//! Files that appear under their name only when complete, hashed while they are written.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::CorpusError;

/// A file that was written: its size and its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Size in bytes.
    pub size: u64,
    /// sha256 in hexadecimal.
    pub sha256: String,
}

/// Passes bytes on, counting and hashing them.
pub(crate) struct Hashed<W> {
    inner: W,
    hasher: Sha256,
    size: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes `path` through a temporary neighbour that is renamed when `fill` has succeeded and the bytes are on disk; an
/// earlier file of that name is replaced as a whole, and nothing is left behind on failure.
pub(crate) fn publish(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), CorpusError>,
) -> Result<Written, CorpusError> {
    let dir = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // make_in and not tempfile_in: the latter's files are readable by their owner alone.
    let temporary = tempfile::Builder::new()
        .prefix(".writing-")
        .make_in(dir, |candidate| File::create_new(candidate))
        .map_err(CorpusError::io("create", path))?;
    let (file, temporary) = temporary.into_parts();
    let mut hashed = Hashed {
        inner: BufWriter::with_capacity(1 << 20, file),
        hasher: Sha256::new(),
        size: 0,
    };
    fill(&mut hashed)?;
    let file = hashed
        .inner
        .into_inner()
        .map_err(|error| CorpusError::io("write", path)(error.into_error()))?;
    file.sync_all().map_err(CorpusError::io("write", path))?;
    temporary
        .persist(path)
        .map_err(|error| CorpusError::io("rename to", path)(error.error))?;
    Ok(Written {
        size: hashed.size,
        sha256: hex(&hashed.hasher.finalize()),
    })
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let result = publish(&path, |writer| {
            writer.write_all(b"half").unwrap();
            Err(CorpusError::Unwritable {
                path: path.clone(),
                reason: "test".into(),
            })
        });
        assert!(result.is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn size_and_hash_are_those_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let written = publish(&path, |writer| {
            writer.write_all(b"abc").unwrap();
            Ok(())
        })
        .unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"abc");
        assert_eq!(written.size, 3);
        // FIPS 180-2, appendix B.1
        assert_eq!(
            written.sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
