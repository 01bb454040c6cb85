//! libtorch's memory comes from the allocator that is linked in, and stays there.
#![allow(clippy::unwrap_used)]
#![allow(unsafe_code)] // jemalloc's settings are read by name, untyped.

use tch::{Device, Kind, Tensor};
use tikv_jemalloc_ctl::{raw, thread};

const BYTES: u64 = 64 << 20;

/// Whatever is used of torch-ext, its allocator comes with it.
fn linked() {
    quarry_torch_ext::set_num_threads(1).unwrap();
}

#[test]
fn a_tensor_is_jemallocs() {
    linked();
    let allocated = thread::allocatedp::read().unwrap();
    let freed = thread::deallocatedp::read().unwrap();
    let before = (allocated.get(), freed.get());
    let tensor = Tensor::zeros([BYTES as i64], (Kind::Uint8, Device::Cpu));
    assert!(allocated.get() - before.0 >= BYTES);
    assert!(freed.get() - before.1 < BYTES);
    drop(tensor);
    assert!(freed.get() - before.1 >= BYTES);
}

#[test]
fn large_blocks_are_not_given_back_at_once() {
    linked();
    // SAFETY: the type that jemalloc has for this name, size_t.
    let bound: usize = unsafe { raw::read(b"arena.0.oversize_threshold\0") }.unwrap();
    assert!(bound > 1 << 40, "{bound}");
}

#[test]
fn spare_memory_goes_when_told_to() {
    linked();
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    drop(Tensor::ones([4 * BYTES as i64], (Kind::Uint8, Device::Cpu)));
    let before = resident();
    quarry_torch_ext::release_spare_memory();
    // Another test may take or own as much meanwhile.
    assert!(resident() + BYTES < before, "{before} {}", resident());
}

#[test]
fn any_spare_stretch_serves_any_request() {
    linked();
    // SAFETY: the type that jemalloc has for this name, size_t.
    let fit: usize = unsafe { raw::read(b"opt.lg_extent_max_active_fit\0") }.unwrap();
    assert_eq!(fit, 16);
}
