//! Copies between main memory and a GPU that the host does not wait for.
//!
//! Owns pinned memory and the moment at which a copy has arrived. Refuses streams other
//! than the current one: what is enqueued later always finds what was copied before.
//! On the CPU nothing is copied twice and nothing is waited for.
#![allow(unsafe_code)] // Calls the shim.

use std::ffi::c_void;

use tch::{Device, Tensor, kind::Element};

use crate::{Error, ffi};

const UPLOAD: &str = "upload";
const DOWNLOAD: &str = "download";

/// `values` as a tensor `[N]` on `device`. For a GPU they are gathered in pinned memory and
/// copied without waiting: operations enqueued later find them there.
///
/// # Errors
/// When libtorch refuses, as without memory.
pub fn upload<T: Element>(values: &[T], device: Device) -> Result<Tensor, Error> {
    let host = Tensor::f_from_slice(values).map_err(|e| Error::argument(UPLOAD, e.to_string()))?;
    let Some(number) = gpu(device, UPLOAD)? else {
        return Ok(host);
    };
    let mut uploaded = std::ptr::null_mut();
    // SAFETY: the tensor lives through the call, which has copied it when it returns;
    // `uploaded` is adopted once, on success.
    unsafe {
        let message = ffi::quarry_upload(ffi::raw(&host), number, &mut uploaded);
        ffi::check(UPLOAD, message)?;
        Ok(ffi::adopt(uploaded))
    }
}

/// A tensor on its way to main memory.
#[derive(Debug)]
#[must_use = "the values are read by wait"]
pub struct Download {
    copy: Tensor,
    /// The event behind the copy; null where there was nothing to wait for.
    arrived: *mut c_void,
}

// SAFETY: the event is this value's alone, and CUDA lets any thread wait for it or destroy it.
// libtorch's host allocator takes blocks back from any thread, as it does for tensors.
unsafe impl Send for Download {}

impl Download {
    /// Enqueues the copy of `source` behind the work that was enqueued before, and returns.
    /// `source` may be dropped or written to afterwards, by work of the same stream. On the CPU
    /// it is copied here.
    ///
    /// # Errors
    /// When libtorch refuses.
    pub fn begin(source: &Tensor) -> Result<Self, Error> {
        let torch = |e: tch::TchError| Error::argument(DOWNLOAD, e.to_string());
        if gpu(source.device(), DOWNLOAD)?.is_none() {
            let detached = source.f_detach().map_err(torch)?;
            let copy = detached
                .f_to_device_(Device::Cpu, source.kind(), false, true)
                .map_err(torch)?;
            return Ok(Self {
                copy,
                arrived: std::ptr::null_mut(),
            });
        }
        let (mut copy, mut arrived) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the tensor lives through the call; copy and event are ours on success.
        unsafe {
            let message = ffi::quarry_download_begin(ffi::raw(source), &mut copy, &mut arrived);
            ffi::check(DOWNLOAD, message)?;
            Ok(Self {
                copy: ffi::adopt(copy),
                arrived,
            })
        }
    }

    /// The values in main memory; waits for the copy, and for no work enqueued after it. Any
    /// thread may wait.
    ///
    /// # Errors
    /// When work on the GPU failed.
    pub fn wait(self) -> Result<Tensor, Error> {
        if !self.arrived.is_null() {
            // SAFETY: the event is alive until `drop`.
            unsafe { ffi::check(DOWNLOAD, ffi::quarry_download_wait(self.arrived))? };
        }
        Ok(self.copy.shallow_clone())
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if !self.arrived.is_null() {
            // SAFETY: made by `begin`, freed once. A destructor has nobody to tell. The copy
            // may still be under way: libtorch's host allocator keeps its block until then.
            unsafe { ffi::take(ffi::quarry_download_free(self.arrived)) };
        }
    }
}

/// The number of a GPU, `None` for the CPU.
fn gpu(device: Device, operation: &'static str) -> Result<Option<i32>, Error> {
    match device {
        Device::Cpu => Ok(None),
        Device::Cuda(number) => i32::try_from(number)
            .map(Some)
            .map_err(|_| Error::argument(operation, format!("there is no GPU {number}"))),
        other => Err(Error::argument(
            operation,
            format!("{other:?} is neither the CPU nor a CUDA device"),
        )),
    }
}
