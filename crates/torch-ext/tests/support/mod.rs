//! The GPU of the machine, if there is one.

use quarry_torch_ext::load_cuda;
use tch::{Cuda, Device};

/// The first GPU. Without one it says so, and the test is to return.
#[allow(clippy::unwrap_used)]
pub fn gpu() -> Option<Device> {
    if load_cuda().unwrap() && Cuda::is_available() {
        return Some(Device::Cuda(0));
    }
    eprintln!("SKIPPED: no GPU, or no libtorch_cuda beside this libtorch");
    None
}
