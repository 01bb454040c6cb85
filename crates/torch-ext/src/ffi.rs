//! The C functions of `shim/`, and how their messages become errors.
//!
//! Owns the declarations, which must match the `.cpp` files word for word. Refuses
//! to be public: each sibling module wraps its own functions safely.
#![allow(unsafe_code)] // This crate is the room for torch's `unsafe`.

use std::ffi::{CStr, c_char, c_int, c_void};

use tch::Tensor;

use crate::Error;

/// An `at::Tensor` owned by tch, or by us between a shim call and [`adopt`].
pub(crate) type RawTensor = *mut c_void;

/// Null, or a message that [`check`] takes over.
pub(crate) type Message = *mut c_char;

unsafe extern "C" {
    pub(crate) fn quarry_message_free(message: Message);
    pub(crate) fn quarry_header_version() -> *const c_char;
    pub(crate) fn quarry_show_config(text: *mut Message) -> Message;
    pub(crate) fn quarry_set_num_threads(count: c_int) -> Message;
    pub(crate) fn quarry_set_num_interop_threads(count: c_int) -> Message;
    pub(crate) fn quarry_set_flush_denormal(on: bool, supported: *mut bool) -> Message;
    pub(crate) fn quarry_set_deterministic(on: bool) -> Message;
    pub(crate) fn quarry_set_f32_partial_sums(on: bool) -> Message;
    pub(crate) fn quarry_f32_partial_sums(on: *mut bool) -> Message;

    pub(crate) fn quarry_libtorch_cpu_path() -> *const c_char;
    pub(crate) fn quarry_load_library(path: *const c_char) -> Message;

    pub(crate) fn quarry_inference_mode_enter(guard: *mut *mut c_void) -> Message;
    pub(crate) fn quarry_inference_mode_leave(guard: *mut c_void) -> Message;
    pub(crate) fn quarry_inference_mode_is_enabled() -> bool;

    pub(crate) fn quarry_tally_begin(tally: *mut *mut c_void) -> Message;
    pub(crate) fn quarry_tally_end(
        tally: *mut c_void,
        operations: *mut i64,
        allocations: *mut i64,
        bytes: *mut i64,
        copied: *mut i64,
    ) -> Message;

    pub(crate) fn quarry_fused_adamw(
        params: *const RawTensor,
        grads: *const RawTensor,
        exp_avgs: *const RawTensor,
        exp_avg_sqs: *const RawTensor,
        state_steps: *const RawTensor,
        count: usize,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        divisor: RawTensor,
        refused: RawTensor,
    ) -> Message;

    pub(crate) fn quarry_lamb(
        params: *const RawTensor,
        grads: *const RawTensor,
        exp_avgs: *const RawTensor,
        exp_avg_sqs: *const RawTensor,
        state_steps: *const RawTensor,
        count: usize,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        most_weight_norm: f64,
        divisor: RawTensor,
        refused: RawTensor,
    ) -> Message;

    pub(crate) fn quarry_foreach_mul_scalar(
        tensors: *const RawTensor,
        count: usize,
        factor: f64,
    ) -> Message;
    pub(crate) fn quarry_drop_gradients(leaves: *const RawTensor, count: usize) -> Message;
    pub(crate) fn quarry_foreach_global_norm(
        tensors: *const RawTensor,
        count: usize,
        norm: *mut RawTensor,
    ) -> Message;

    pub(crate) fn quarry_packed_attention(
        projections: RawTensor,
        lengths: *const i64,
        count: usize,
        heads: i64,
        context: *mut RawTensor,
    ) -> Message;

    pub(crate) fn quarry_flash_attention(
        projections: RawTensor,
        bounds: RawTensor,
        longest: i64,
        heads: i64,
        dropout: f64,
        context: *mut RawTensor,
    ) -> Message;

    pub(crate) fn quarry_upload(
        source: RawTensor,
        device: c_int,
        uploaded: *mut RawTensor,
    ) -> Message;
    pub(crate) fn quarry_download_begin(
        source: RawTensor,
        copy: *mut RawTensor,
        arrived: *mut *mut c_void,
    ) -> Message;
    pub(crate) fn quarry_download_wait(arrived: *const c_void) -> Message;
    pub(crate) fn quarry_download_free(arrived: *mut c_void) -> Message;

    pub(crate) fn quarry_add_norm_(
        x: RawTensor,
        y: RawTensor,
        weight: RawTensor,
        bias: RawTensor,
        epsilon: f64,
    ) -> Message;

    pub(crate) fn quarry_residual_norm(
        x: RawTensor,
        y: RawTensor,
        weight: RawTensor,
        bias: RawTensor,
        epsilon: f64,
        seed: i64,
        below: u32,
        scale: f64,
        out: *mut RawTensor,
    ) -> Message;
    pub(crate) fn quarry_trained_linear(
        x: RawTensor,
        forth: RawTensor,
        bias: RawTensor,
        back: RawTensor,
        leaves: *const RawTensor,
        count: usize,
        out: *mut RawTensor,
    ) -> Message;
    pub(crate) fn quarry_trained_feed_forward(
        x: RawTensor,
        forth1: RawTensor,
        bias1: RawTensor,
        back1: RawTensor,
        forth2: RawTensor,
        bias2: RawTensor,
        back2: RawTensor,
        tanh: bool,
        inner: usize,
        leaves: *const RawTensor,
        count: usize,
        out: *mut RawTensor,
    ) -> Message;
    pub(crate) fn quarry_trained_embeddings(
        ids: RawTensor,
        positions: RawTensor,
        word_pad: i64,
        position_pad: i64,
        leaves: *const RawTensor,
        count: usize,
        out: *mut RawTensor,
    ) -> Message;

    pub(crate) fn quarry_layers_pack(
        weight: RawTensor,
        part: i64,
        packed: *mut RawTensor,
    ) -> Message;
    pub(crate) fn quarry_layers_forward(
        x: RawTensor,
        lengths: *const i64,
        count: usize,
        tensors: *const RawTensor,
        tensor_count: usize,
        heads: i64,
        tanh: bool,
        epsilon: f64,
        firsts: bool,
        out: *mut RawTensor,
    ) -> Message;

    pub(crate) fn quarry_linear_pack(
        weight: RawTensor,
        rows: i64,
        packed: *mut RawTensor,
    ) -> Message;
    pub(crate) fn quarry_linear_forward(
        input: RawTensor,
        packed: RawTensor,
        bias: RawTensor,
        activation: *const c_char,
        algorithm: *const c_char,
        output: *mut RawTensor,
    ) -> Message;
}

/// The pointer of one tensor. It is valid while the tensor lives.
pub(crate) fn raw(tensor: &Tensor) -> RawTensor {
    tensor.as_ptr().cast_mut().cast()
}

/// The pointers of many tensors. They are valid while the slice is borrowed.
pub(crate) fn raw_list(tensors: &[Tensor]) -> Vec<RawTensor> {
    tensors.iter().map(raw).collect()
}

/// Takes over a tensor that the shim allocated with `new at::Tensor`.
///
/// # Safety
/// `tensor` must come from a shim call that succeeded, and be adopted once.
pub(crate) unsafe fn adopt(tensor: RawTensor) -> Tensor {
    unsafe { Tensor::from_ptr(tensor.cast()) }
}

/// Copies a message of the shim and frees it.
///
/// # Safety
/// `message` must be null or come from the shim, and be taken once.
pub(crate) unsafe fn take(message: Message) -> Option<String> {
    if message.is_null() {
        return None;
    }
    let text = unsafe { CStr::from_ptr(message) }
        .to_string_lossy()
        .into_owned();
    unsafe { quarry_message_free(message) };
    Some(text)
}

/// Turns the outcome of a shim call into a `Result`.
///
/// # Safety
/// As for [`take`].
pub(crate) unsafe fn check(operation: &'static str, message: Message) -> Result<(), Error> {
    match unsafe { take(message) } {
        None => Ok(()),
        // libtorch's messages run over several lines; the first one says it.
        Some(text) => Err(Error::Torch {
            operation,
            message: text.lines().next().unwrap_or_default().to_owned(),
        }),
    }
}
