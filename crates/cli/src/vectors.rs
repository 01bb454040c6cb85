//! The vectors of a whole collection, made for one command.
//!
//! Owns: encoding shard by shard into fp16 files as a generation stores them, and the exact search over the mapped
//! files, both on the encoder's device. Main memory holds one shard's vectors, however many passages there are; a GPU
//! holds them all while they are searched. Refuses: caching between commands.

use crate::collection::bar;
use anyhow::{Context, Result};
use half::f16;
use half::slice::HalfFloatSliceExt;
use quarry_corpus::{Corpus, Embeddings};
use quarry_index::{ExactIndex, Part};
use quarry_model::{Encoder, Specials};
use std::path::Path;
use tempfile::TempDir;

/// What the files say they stem from: no generation reads them.
const ORIGIN: &str = "evaluation";

/// An exact index over encoded passages; its files go with the value.
pub struct PassageVectors {
    /// Row 0 of the corpus first.
    pub index: ExactIndex,
    _folder: TempDir,
}

impl PassageVectors {
    /// Encodes every passage, cut to `length` tokens, into a folder of its own inside `parent`.
    ///
    /// # Errors
    /// If the model refuses a text or a vector is not finite in fp16, or if the disk is full.
    pub fn encode(
        encoder: &Encoder,
        specials: Specials,
        corpus: &Corpus,
        length: usize,
        parent: &Path,
    ) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("vectors-")
            .tempdir_in(parent)
            .with_context(|| format!("cannot make a folder for vectors in {}", parent.display()))?;
        let progress = bar("passages", corpus.passages() as u64);
        let width = usize::try_from(encoder.dim())?;
        let mut parts = Vec::with_capacity(corpus.shards().len());
        for (number, shard) in corpus.shards().iter().enumerate() {
            let tokens: Vec<&[u32]> = (0..shard.len()).map(|i| shard.tokens(i)).collect();
            let done = progress.position();
            let budget = encoder.token_budget();
            let rows = encoder.encode(&tokens, specials, length, budget, &mut |n| {
                progress.set_position(done + n as u64);
            })?;
            let mut half = vec![f16::ZERO; rows.len()];
            half.convert_from_f32_slice(&rows);
            let path = folder.path().join(format!("shard-{number:05}.safetensors"));
            Embeddings::write(&path, &half, width, shard.first_row(), ORIGIN).with_context(|| {
                format!(
                    "cannot keep the vectors of {} passages ({} bytes in all); name a folder with room in TMPDIR",
                    corpus.passages(),
                    corpus.passages() * width * size_of::<f16>()
                )
            })?;
            parts.push(Part::from_embeddings(Embeddings::open(&path)?)?);
            progress.set_position(done + shard.len() as u64);
        }
        progress.finish_and_clear();
        Ok(Self {
            index: ExactIndex::new(parts, encoder.device())?,
            _folder: folder,
        })
    }
}
