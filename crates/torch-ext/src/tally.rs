//! What a stretch of work asks of libtorch: operations, allocations, bytes, copies.
//!
//! Owns the counting, for guards against lost optimisations that no clock need be asked
//! about. Refuses to measure time, and counts the calling thread alone.
#![allow(unsafe_code)] // Calls the shim.

use std::ffi::c_void;

use crate::{Error, ffi};

const OPERATION: &str = "tally";

/// What [`tally`] saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Calls of libtorch's operations, those within others included.
    pub operations: i64,
    /// Blocks of memory taken for tensors on the CPU.
    pub allocations: i64,
    /// Bytes of those blocks.
    pub bytes: i64,
    /// Bytes that operations wrote which only move numbers or cast them.
    pub copied: i64,
}

/// Runs `body` and counts what it asks of libtorch on this thread.
///
/// # Errors
/// When this thread is being counted already.
pub fn tally<R>(body: impl FnOnce() -> R) -> Result<(R, Counts), Error> {
    let running = Running::begin()?;
    let result = body();
    Ok((result, running.end()?))
}

/// Ended when dropped, so that a panic leaves nothing installed. Not `Send`: the counting
/// belongs to the thread.
struct Running(*mut c_void);

impl Running {
    fn begin() -> Result<Self, Error> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: `handle` is written on success alone, and ended once, here or by `drop`.
        unsafe { ffi::check(OPERATION, ffi::quarry_tally_begin(&mut handle))? };
        Ok(Self(handle))
    }

    fn end(self) -> Result<Counts, Error> {
        let running = std::mem::ManuallyDrop::new(self);
        running.stop()
    }

    fn stop(&self) -> Result<Counts, Error> {
        let mut counts = Counts {
            operations: 0,
            allocations: 0,
            bytes: 0,
            copied: 0,
        };
        // SAFETY: the handle came from `begin` on this thread; `end` and `drop` exclude
        // each other.
        unsafe {
            let message = ffi::quarry_tally_end(
                self.0,
                &mut counts.operations,
                &mut counts.allocations,
                &mut counts.bytes,
                &mut counts.copied,
            );
            ffi::check(OPERATION, message)?;
        }
        Ok(counts)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // What was counted is of no use to anyone, and ending cannot fail.
        let _ = self.stop();
    }
}
