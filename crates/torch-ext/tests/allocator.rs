//! libtorch's memory comes from the allocator that is linked in, not from glibc's.
#![allow(clippy::unwrap_used)]

use tch::{Device, Kind, Tensor};
use tikv_jemalloc_ctl::thread;

const BYTES: u64 = 64 << 20;

#[test]
fn a_tensor_is_jemallocs() {
    let allocated = thread::allocatedp::read().unwrap();
    let freed = thread::deallocatedp::read().unwrap();
    // Something of torch-ext must be linked for its allocator to be.
    quarry_torch_ext::set_num_threads(1).unwrap();
    let before = (allocated.get(), freed.get());
    let tensor = Tensor::zeros([BYTES as i64], (Kind::Uint8, Device::Cpu));
    assert!(allocated.get() - before.0 >= BYTES);
    assert!(freed.get() - before.1 < BYTES);
    drop(tensor);
    assert!(freed.get() - before.1 >= BYTES);
}
