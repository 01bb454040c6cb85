//! What this machine has: cores, GPUs, memory, disk, and a measured arithmetic speed.

use anyhow::Result;
use quarry_service::DeviceChoice;
use std::path::Path;
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};

pub use quarry_service::cpu::has_native_bf16;
pub use quarry_service::threads::available as cores;

/// The threads that `--threads` asks for; 0 takes every core.
#[must_use]
pub fn threads(given: u16) -> usize {
    match given {
        0 => cores(),
        threads => usize::from(threads),
    }
}

/// The device that `--device` asks for. Loads CUDA unless that is the CPU, so it must come
/// before any other use of libtorch.
///
/// # Errors
/// If the GPU that was asked for is not there.
pub fn device(choice: DeviceChoice) -> Result<Device> {
    let gpu = choice.claim(quarry_torch_ext::gpus)?;
    Ok(quarry_torch_ext::claim_device(gpu)?)
}

/// A machine's means at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Resources {
    /// Usable cores.
    pub cores: usize,
    /// Bytes of memory that can be had without swapping.
    pub memory: u64,
    /// Bytes free where the run writes; `None` for a remote store.
    pub disk: Option<u64>,
}

impl Resources {
    /// Reads the means of this machine; `folder` is where the run writes.
    #[must_use]
    pub fn read(folder: Option<&Path>) -> Self {
        let mut system = sysinfo::System::new();
        system.refresh_memory();
        Self {
            cores: cores(),
            memory: system.available_memory(),
            disk: folder.and_then(free_disk),
        }
    }
}

/// Free bytes of the file system that holds `folder` (or will).
fn free_disk(folder: &Path) -> Option<u64> {
    let folder = folder
        .ancestors()
        .find(|p| p.exists())?
        .canonicalize()
        .ok()?;
    let room = rustix::fs::statvfs(&folder).ok()?;
    Some(room.f_bavail.saturating_mul(room.f_frsize))
}

/// Measured speed of a square matrix product, in FLOP/s on all threads torch
/// has now. Takes about half a second.
#[must_use]
pub fn matmul_flops(kind: Kind) -> f64 {
    const N: i64 = 1024;
    let side = || Tensor::ones([N, N], (kind, Device::Cpu));
    let (a, b) = (side(), side());
    let started = Instant::now();
    let mut best = f64::INFINITY;
    while started.elapsed() < Duration::from_millis(400) {
        let round = Instant::now();
        let _product = a.matmul(&b);
        best = best.min(round.elapsed().as_secs_f64());
    }
    2.0 * (N as f64).powi(3) / best
}
