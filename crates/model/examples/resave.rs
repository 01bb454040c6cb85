//! Writes a model folder again, as a sentence-transformers folder.
//!
//! `cargo run -p quarry-model --example resave -- MODEL_DIR OUT_DIR`
//!
//! Then `SentenceTransformer(OUT_DIR)` must give the vectors of `MODEL_DIR`.
#![allow(clippy::unwrap_used)]

use quarry_model::{DualEncoder, LoadOptions};
use std::path::Path;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (source, target) = (arguments.next().unwrap(), arguments.next().unwrap());
    let model = DualEncoder::load(Path::new(&source), &LoadOptions::default()).unwrap();
    model.save(Path::new(&target)).unwrap();
}
