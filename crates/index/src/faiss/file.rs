//! The index file: faiss's own format, then a trailer with what faiss does not store (spec, first row, counts).
//!
//! Layout: faiss bytes · trailer as JSON · its length as u64 little-endian · magic. faiss reads from the front and
//! ignores what follows; a file cut anywhere lacks the magic and is refused before faiss sees it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::factory::Factory;
use super::native::Native;
use super::{FaissIndex, IndexSpec};
use crate::{IndexError, Search};

const MAGIC: &[u8; 8] = b"QRYFAISS";
/// Length and magic.
const TAIL: u64 = 16;

#[derive(Debug, Serialize, Deserialize)]
struct Trailer {
    spec: IndexSpec,
    first_row: u32,
    rows: usize,
    dim: usize,
    /// Size of the faiss part in bytes.
    faiss_size: u64,
}

pub(super) fn write(index: &FaissIndex, path: &Path) -> Result<(), IndexError> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let temporary = tempfile::NamedTempFile::new_in(folder).map_err(IndexError::io(folder))?;
    index.native.write(temporary.path())?;
    append_trailer(index, temporary.path()).map_err(IndexError::io(path))?;
    temporary.persist(path).map_err(|error| IndexError::Io {
        path: path.to_owned(),
        source: error.error,
    })?;
    Ok(())
}

fn append_trailer(index: &FaissIndex, path: &Path) -> std::io::Result<()> {
    // faiss truncates and writes by name, so the file is opened again here.
    let mut file = File::options().append(true).open(path)?;
    let trailer = Trailer {
        spec: index.spec.clone(),
        first_row: index.first_row,
        rows: index.len(),
        dim: index.dim(),
        faiss_size: file.metadata()?.len(),
    };
    let trailer = serde_json::to_vec(&trailer)?;
    file.write_all(&trailer)?;
    file.write_all(&(trailer.len() as u64).to_le_bytes())?;
    file.write_all(MAGIC)?;
    file.sync_all()
}

pub(super) fn read(path: &Path) -> Result<FaissIndex, IndexError> {
    let corrupt = |reason: &str| IndexError::Corrupt {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let trailer = read_trailer(path)
        .map_err(IndexError::io(path))?
        .ok_or_else(|| corrupt("its end is missing"))?;
    trailer.spec.check()?;
    let native = Native::read(path)?;
    if (native.rows(), native.dim()) != (trailer.rows, trailer.dim) || !native.is_trained() {
        return Err(corrupt("faiss finds other rows in it than were written"));
    }
    if trailer.first_row as usize + trailer.rows > u32::MAX as usize
        || Factory::parse(&trailer.spec.factory).is_err()
    {
        return Err(corrupt("its description is damaged"));
    }
    FaissIndex::assemble(native, trailer.spec, trailer.first_row)
}

/// `None` where the file does not end as [`write()`] ends it.
fn read_trailer(path: &Path) -> std::io::Result<Option<Trailer>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    if size < TAIL {
        return Ok(None);
    }
    let mut tail = [0; TAIL as usize];
    file.seek(SeekFrom::Start(size - TAIL))?;
    file.read_exact(&mut tail)?;
    let (length, magic) = tail.split_at(8);
    let length = length
        .iter()
        .rev()
        .fold(0u64, |length, byte| length << 8 | u64::from(*byte));
    let Some(start) = (size - TAIL).checked_sub(length).filter(|_| magic == MAGIC) else {
        return Ok(None);
    };
    let mut trailer = vec![0; length as usize];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut trailer)?;
    let trailer: Option<Trailer> = serde_json::from_slice(&trailer).ok();
    Ok(trailer.filter(|trailer| trailer.faiss_size == start))
}
