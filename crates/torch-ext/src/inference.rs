//! Inference mode: autograd off, and not even version counters kept.
//!
//! Owns the guard. Refuses to leave the thread it was made on.
#![allow(unsafe_code)] // Calls the shim.

use std::{ffi::c_void, marker::PhantomData};

use crate::{Error, ffi};

/// While this guard lives, its thread computes without autograd (`c10::InferenceMode`).
///
/// Stronger and cheaper than `tch::no_grad`: a tensor *made* inside can never take
/// part in autograd, not even later. Guards may be nested and are best held in a
/// local variable, so that the innermost is dropped first. A panic restores the mode.
///
/// ```
/// let _inference = quarry_torch_ext::InferenceMode::enter()?;
/// assert!(quarry_torch_ext::InferenceMode::is_enabled());
/// # Ok::<(), quarry_torch_ext::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "inference mode ends when the guard is dropped"]
pub struct InferenceMode {
    guard: *mut c_void,
    /// The mode is a thread's own: the raw pointer keeps the guard from being sent.
    _not_send: PhantomData<*mut ()>,
}

impl InferenceMode {
    /// Turns inference mode on for this thread.
    ///
    /// # Errors
    /// When libtorch refuses.
    pub fn enter() -> Result<Self, Error> {
        let mut guard = std::ptr::null_mut();
        // SAFETY: on success `guard` is ours, to be left once, by `drop` on this thread.
        unsafe {
            ffi::check(
                "InferenceMode",
                ffi::quarry_inference_mode_enter(&mut guard),
            )?
        };
        Ok(Self {
            guard,
            _not_send: PhantomData,
        })
    }

    /// Whether this thread is in inference mode.
    #[must_use]
    pub fn is_enabled() -> bool {
        // SAFETY: reads a thread-local flag.
        unsafe { ffi::quarry_inference_mode_is_enabled() }
    }
}

impl Drop for InferenceMode {
    fn drop(&mut self) {
        // SAFETY: made by `enter` on this thread, left once. A destructor has nobody
        // to tell of a failure, and leaving only restores thread-local state.
        unsafe { ffi::take(ffi::quarry_inference_mode_leave(self.guard)) };
    }
}
