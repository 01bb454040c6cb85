//! `tokenizer.json`: texts to token ids.
//!
//! Yields content ids only. The special tokens around a text, its truncation and
//! padding belong to the batch (`PackedBatch`), so a prepared corpus serves any length.

use crate::error::ModelError;
use crate::packed::Specials;
use quarry_corpus::Tokenize;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;

/// A Hugging Face tokenizer without padding and truncation.
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    specials: Specials,
    digest: String,
}

impl TextTokenizer {
    /// Reads `tokenizer.json` of a model folder: at its root, in a
    /// `0_Transformer` module or, for separate towers, in `query`.
    pub fn from_dir(dir: &Path) -> Result<Self, ModelError> {
        let path = ["", "0_Transformer", "query"]
            .map(|sub| dir.join(sub).join("tokenizer.json"))
            .into_iter()
            .find(|path| path.is_file());
        let Some(path) = path else {
            let reason = "no tokenizer.json; save the model's fast tokenizer there";
            return Err(ModelError::invalid(dir, reason));
        };
        Self::from_file(path)
    }

    fn from_file(path: PathBuf) -> Result<Self, ModelError> {
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(source) => return Err(ModelError::Read { path, source }),
        };
        let mut tokenizer = Tokenizer::from_bytes(&bytes)
            .map_err(|e| ModelError::invalid(&path, format!("not a tokenizer: {e}")))?;
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|e| ModelError::Tokenizer(e.to_string()))?;
        let specials = specials(&tokenizer).map_err(|r| ModelError::invalid(&path, r))?;
        Ok(Self {
            tokenizer,
            specials,
            digest: format!("{:x}", Sha256::digest(&bytes)),
        })
    }

    /// The token before and the token after every text.
    pub fn specials(&self) -> Specials {
        self.specials
    }
}

impl Tokenize for TextTokenizer {
    fn content_ids(&self, texts: &[String], max_tokens: usize) -> Result<Vec<Vec<u32>>, String> {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let encodings = self
            .tokenizer
            .encode_batch_fast(texts, false)
            .map_err(|e| e.to_string())?;
        let cut = |ids: &[u32]| ids[..ids.len().min(max_tokens)].to_vec();
        Ok(encodings.iter().map(|e| cut(e.get_ids())).collect())
    }

    fn digest(&self) -> String {
        self.digest.clone()
    }
}

/// What the post-processor puts around an empty text.
fn specials(tokenizer: &Tokenizer) -> Result<Specials, String> {
    let encoding = tokenizer.encode("", true).map_err(|e| e.to_string())?;
    match *encoding.get_ids() {
        [first, last] => Ok(Specials { first, last }),
        ref ids => Err(format!(
            "its post-processor puts {} tokens around an empty text, but an encoder needs 2 ([CLS] … [SEP] or <s> … </s>)",
            ids.len()
        )),
    }
}
