//! Memory maps of published files: the one place where this crate is `unsafe`.
#![allow(unsafe_code)]

use std::fs::File;
use std::path::Path;

use bytes::Bytes;
use memmap2::Mmap;

use crate::CorpusError;

/// Maps the whole of `path`, read-only. The bytes are shared, page-aligned and live as long as any clone.
pub(crate) fn map(path: &Path) -> Result<Bytes, CorpusError> {
    let file = File::open(path).map_err(CorpusError::io("open", path))?;
    // SAFETY: a map is sound while nobody writes to the file or shortens it. Files of a run are renamed into place when
    // complete and never overwritten afterwards (law 1); replacing a name leaves this map on the old file.
    let map = unsafe { Mmap::map(&file) }.map_err(CorpusError::io("map", path))?;
    Ok(Bytes::from_owner(map))
}
