//! What tch leaves unbound, in one C++ shim and a safe Rust face.
//!
//! Owns every torch `unsafe` of the workspace: the fused AdamW step, LAMB and other operations
//! over lists of tensors, inference mode, oneDNN's fused linear layer, attention over packed
//! sequences, all layers of a transformer in one operation, LayerNorm of a sum with and
//! without dropout, layers in training that fill their masters' gradients, the counting of operations and memory, late loading of CUDA,
//! flash attention and unwaited copies there, libtorch's process-wide settings, and the
//! allocator that tensors come from.
//! Refuses anything that tch already offers and anything that knows what a model, a file
//! format or a recipe is.
//!
//! Two rules hold throughout. An exception never crosses the border: every C++
//! function returns null or a message, which becomes an [`Error`]. And what a kernel
//! would read without a check (lengths, shapes, kinds, layout) is checked here first,
//! so safe code cannot make it read outside a tensor.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod adamw;
mod allocator;
mod attention;
mod cuda;
mod error;
mod ffi;
mod flash;
mod foreach;
mod inference;
mod lamb;
mod layers;
mod linear;
mod norm;
mod residual;
mod settings;
mod step;
mod tally;
mod trained;
mod transfer;

pub use adamw::{AdamW, fused_adamw, fused_adamw_guarded};
pub use allocator::{release_spare_memory, share_the_first_arena};
pub use attention::PackedAttention;
pub use cuda::{claim_device, gpus, load_cuda};
pub use error::Error;
pub use flash::{FlashAttention, SequenceBounds};
pub use foreach::{clip_global_norm_, drop_gradients, global_norm, mul_scalar_};
pub use inference::InferenceMode;
pub use lamb::{Lamb, lamb, lamb_guarded};
pub use layers::{LayerForm, LayerWeights, LinearWeights, NormWeights, PackedLayers};
pub use linear::{Activation, PackedLinear};
pub use norm::add_norm;
pub use residual::{SeededDropout, residual_norm};
pub use settings::{
    f32_partial_sums, header_version, libtorch_version, set_deterministic, set_f32_partial_sums,
    set_flush_denormal, set_num_interop_threads, set_num_threads,
};
pub use step::{StepGuard, StepState};
pub use tally::{Counts, tally};
pub use trained::{EmbeddingTables, TrainedLinear, trained_embeddings, trained_feed_forward};
pub use transfer::{Download, upload};
