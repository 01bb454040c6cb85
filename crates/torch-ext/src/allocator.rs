//! Where tensors live: jemalloc, for every program that links libtorch.
//!
//! Owns the choice of the allocator. The feature that leaves its names unprefixed lets
//! it stand for `malloc` in libtorch and faiss too, not in Rust alone. Packed batches
//! make every step ask for blocks of other sizes: glibc cannot fit them into what the
//! step before gave back, and a trainer grew from 1.2 to 3.9 GiB in 200 steps
//! (docs/decisions/0016).

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;
