//! Where tensors live: jemalloc, for every program that links libtorch.
//!
//! Owns the choice of the allocator and its settings. The feature that leaves its names
//! unprefixed lets it stand for `malloc` in libtorch and faiss too, not in Rust alone.
//! Packed batches make every step ask for blocks of other sizes: glibc cannot fit them
//! into what the step before gave back, and a trainer that needs 1.3 GiB owned 4.9 after 300
//! steps (docs/decisions/0016).
#![allow(unsafe_code)] // Speaks to jemalloc by the names of its settings.

use std::ffi::{CStr, c_char, c_uint};

use tikv_jemalloc_ctl::raw;
use tikv_jemalloc_sys::mallctl;
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// What a step gives back the next one takes. jemalloc would return free stretches of
/// 8 MiB at once, and others after 10 s, which is two long steps: they come back one
/// page fault at a time, a tenth of a step's processor time. Without that bound they go
/// when nobody has wanted them for a minute. They must go: kept for ever (-1), a run
/// owned 10 GiB after 48 steps. And any spare stretch serves any request, however much
/// larger it is (jemalloc's bound is 2⁶ times): beside the requests that had to ask the
/// system instead, half as much again lay idle.
const SETTINGS: &CStr = c"oversize_threshold:0,dirty_decay_ms:60000,lg_extent_max_active_fit:16";

/// Gives pages that nobody uses back to the system at once. Before something large that
/// comes rarely: it then takes their place instead of lying beside them.
pub fn release_spare_memory() {
    let nothing = std::ptr::null_mut();
    // SAFETY: the name, of all arenas (4096), is terminated, and the call takes no value.
    let code = unsafe {
        mallctl(
            c"arena.4096.purge".as_ptr(),
            nothing,
            nothing.cast(),
            nothing,
            0,
        )
    };
    // Another allocator of these names answers with an error, and nothing is lost.
    let _ = code;
}

/// Lets the calling thread take its memory from where the first thread of the process takes
/// it: what one of them gives back the other may use, where each would else keep its own
/// spare memory. For a few threads that work beside the first one: they wait for each other
/// when they ask for memory at the same moment.
pub fn share_the_first_arena() {
    // SAFETY: the name is terminated and takes an `unsigned`.
    let shared = unsafe { raw::write(b"thread.arena\0", 0 as c_uint) };
    // Another allocator of these names answers with an error, and no harm is done.
    let _ = shared;
}

/// `const char *malloc_conf`; `MALLOC_CONF` in the environment goes before it.
#[repr(transparent)]
struct Configuration(*const c_char);

// SAFETY: a pointer to a constant, which nobody writes.
unsafe impl Sync for Configuration {}

// SAFETY: the name and type of jemalloc's own weak variable, which this replaces.
#[unsafe(export_name = "malloc_conf")]
static CONFIGURATION: Configuration = Configuration(SETTINGS.as_ptr());

/// The main thread's arena is made before `SETTINGS` are read and keeps the bound, so
/// it is told again.
extern "C" fn lift_the_first_arenas_bound() {
    // SAFETY: the name is terminated and takes a `size_t`.
    let lifted = unsafe { raw::write(b"arena.0.oversize_threshold\0", usize::MAX >> 1) };
    // Another allocator of these names answers with an error, and no harm is done.
    let _ = lifted;
}

// SAFETY: the loader calls what is listed in this section once, before `main`, with
// arguments that a function without parameters ignores.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = lift_the_first_arenas_bound;
