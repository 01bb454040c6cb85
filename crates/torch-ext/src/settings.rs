//! libtorch's process-wide settings, and its version.
//!
//! Owns what must be set once, early, by `main`. Refuses defaults: how many threads a
//! process gets is decided where processes are started, never here.
#![allow(unsafe_code)] // Calls the shim.

use std::ffi::{CStr, c_int};

use crate::{Error, ffi};

/// The version of the headers this crate was compiled against, such as `2.11.0`.
#[must_use]
pub fn header_version() -> &'static str {
    // SAFETY: a string literal of the shim.
    let version = unsafe { CStr::from_ptr(ffi::quarry_header_version()) };
    version.to_str().unwrap_or("unknown")
}

/// The version of the libtorch loaded into this process, such as `2.11.0`: the one
/// the loader found, which need not be the one compiled against.
///
/// # Errors
/// When libtorch does not say.
pub fn libtorch_version() -> Result<String, Error> {
    const OPERATION: &str = "show_config";
    let mut text = std::ptr::null_mut();
    // SAFETY: `text` is taken once, on success.
    let text = unsafe {
        ffi::check(OPERATION, ffi::quarry_show_config(&mut text))?;
        ffi::take(text).unwrap_or_default()
    };
    text.split_once("TORCH_VERSION=")
        .and_then(|(_, rest)| rest.split([',', ' ', '\n']).next())
        .map(str::to_owned)
        .ok_or_else(|| Error::argument(OPERATION, "its text names no TORCH_VERSION"))
}

/// Sets how many threads one operation may use, in this process.
///
/// libtorch applies the number on every thread that calls it. OpenMP itself keeps it
/// *per calling thread*: faiss, called from a thread that has run no libtorch
/// operation, would still take every core. `OMP_NUM_THREADS` in the environment of a
/// process that is about to start binds all of its threads.
///
/// # Errors
/// When `count` is zero, or libtorch refuses.
pub fn set_num_threads(count: usize) -> Result<(), Error> {
    const OPERATION: &str = "set_num_threads";
    let count = thread_count(OPERATION, count)?;
    // SAFETY: a plain number.
    unsafe { ffi::check(OPERATION, ffi::quarry_set_num_threads(count)) }
}

/// Sets how many operations may run side by side. To be called once, before any
/// operation runs: libtorch refuses it afterwards.
///
/// # Errors
/// When `count` is zero, or libtorch refuses.
pub fn set_num_interop_threads(count: usize) -> Result<(), Error> {
    const OPERATION: &str = "set_num_interop_threads";
    let count = thread_count(OPERATION, count)?;
    // SAFETY: a plain number.
    unsafe { ffi::check(OPERATION, ffi::quarry_set_num_interop_threads(count)) }
}

/// Lets the CPU flush denormal numbers to zero, on this thread and on those it starts
/// from now on: call it before the first operation. Returns whether the CPU can.
///
/// # Errors
/// When libtorch refuses.
pub fn set_flush_denormal(on: bool) -> Result<bool, Error> {
    let mut supported = false;
    // SAFETY: writes one bool.
    unsafe {
        let message = ffi::quarry_set_flush_denormal(on, &mut supported);
        ffi::check("set_flush_denormal", message)?;
    }
    Ok(supported)
}

/// Makes libtorch choose deterministic kernels, and refuse operations that have none
/// (`torch.use_deterministic_algorithms`). On a GPU, cuBLAS also wants
/// `CUBLAS_WORKSPACE_CONFIG=:4096:8` in the environment when the process starts.
///
/// # Errors
/// When libtorch refuses.
pub fn set_deterministic(on: bool) -> Result<(), Error> {
    // SAFETY: a plain flag.
    unsafe {
        ffi::check(
            "setDeterministicAlgorithms",
            ffi::quarry_set_deterministic(on),
        )
    }
}

/// Lets cuBLAS add the parts of a split bf16 product in f32, rather than round each sum to
/// bf16, as it may by default. A CPU adds in f32 in any case.
///
/// # Errors
/// When libtorch refuses.
pub fn set_f32_partial_sums(on: bool) -> Result<(), Error> {
    // SAFETY: a plain flag.
    unsafe {
        ffi::check(
            "setAllowBF16ReductionCuBLAS",
            ffi::quarry_set_f32_partial_sums(on),
        )
    }
}

/// Whether [`set_f32_partial_sums`] is on.
///
/// # Errors
/// When libtorch refuses.
pub fn f32_partial_sums() -> Result<bool, Error> {
    let mut on = false;
    // SAFETY: writes one bool.
    unsafe {
        let message = ffi::quarry_f32_partial_sums(&mut on);
        ffi::check("allowBF16ReductionCuBLAS", message)?;
    }
    Ok(on)
}

fn thread_count(operation: &'static str, count: usize) -> Result<c_int, Error> {
    c_int::try_from(count)
        .ok()
        .filter(|&count| count > 0)
        .ok_or_else(|| Error::argument(operation, format!("{count} threads")))
}
