//! Dual encoders: Hugging Face folders in, embeddings and losses out.
//!
//! Owns: model folders (config, weights, tokenizer, pooling), the padding-free
//! forward pass of the BERT family, the two towers of a dual encoder, and the
//! losses as pure maths on tensors (`loss/`). Refuses: optimizers, batches,
//! process groups, stores; any weight file that holds code (pickles); any model
//! whose forward pass it does not implement exactly.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod config;
mod copy;
mod dual;
mod encoder;
mod error;
mod folder;
pub mod loss;
mod names;
mod packed;
mod tokenizer;
mod weights;

pub use config::{Activation, Config, Family};
pub use copy::ModelCopy;
pub use dual::{DualEncoder, LoadOptions, Parameter, TrainedPair};
pub use encoder::{
    CPU_TOKEN_BUDGET, Dropout, Embedded, Encoder, GPU_TOKEN_BUDGET, MOST_LANES, Pooling, Precision,
};
pub use error::ModelError;
pub use folder::ModelFolder;
pub use packed::{PackedBatch, Specials};
pub use tokenizer::TextTokenizer;
