//! Which device trains, in which arithmetic, on how many threads.
//!
//! Owns: `--device` and `--threads`. Refuses: a device that is not there, rather
//! than fall back in silence (law 8).

use anyhow::{Context, Result};
use quarry_model::Precision;
use quarry_service::DeviceChoice;
use quarry_service::cpu::has_native_bf16;
use tch::Device;

/// Loads CUDA if it may be wanted, fixes the threads and a GPU's arithmetic, and names the
/// device. To be called once, before any other use of libtorch.
///
/// # Errors
/// A GPU that is asked for but not there.
pub fn claim(choice: DeviceChoice, threads: usize) -> Result<Device> {
    let gpu = choice.claim(quarry_torch_ext::gpus)?;
    quarry_torch_ext::set_num_threads(threads)?;
    let device = quarry_torch_ext::claim_device(gpu)?;
    if device.is_cuda() {
        replayable().context("cannot make the GPU deterministic")?;
    }
    Ok(device)
}

/// Whether cuBLAS repeats itself with this `CUBLAS_WORKSPACE_CONFIG`; libtorch refuses a
/// product in deterministic mode under any other.
fn is_fixed(workspace: &str) -> bool {
    [":4096:8", ":16:8"].contains(&workspace)
}

/// A replay wants the same kernels in the same order. cuBLAS promises that only
/// with a fixed workspace, which must be asked for before the process starts.
fn replayable() -> Result<()> {
    let workspace = std::env::var("CUBLAS_WORKSPACE_CONFIG").unwrap_or_default();
    if !is_fixed(&workspace) {
        tracing::warn!(
            "runs on this GPU need not repeat bitwise; set CUBLAS_WORKSPACE_CONFIG=:4096:8 for that"
        );
        return Ok(());
    }
    Ok(quarry_torch_ext::set_deterministic(true)?)
}

/// The arithmetic of `train.precision` on `device`: `auto` is bf16 where products
/// of bf16 are native.
#[must_use]
pub fn precision(wanted: quarry_recipe::Precision, device: Device) -> Precision {
    match wanted {
        quarry_recipe::Precision::F32 => Precision::F32,
        quarry_recipe::Precision::Bf16 => Precision::Bf16,
        quarry_recipe::Precision::Auto if device.is_cuda() || has_native_bf16() => Precision::Bf16,
        quarry_recipe::Precision::Auto => Precision::F32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_workspaces_that_libtorch_takes_are_fixed() {
        for (workspace, fixed) in [
            (":4096:8", true),
            (":16:8", true),
            ("", false),
            (":4096:8:16:8", false),
            (":0:0", false),
        ] {
            assert_eq!(is_fixed(workspace), fixed, "{workspace}");
        }
    }
}
