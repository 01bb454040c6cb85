//! Which device trains, in which arithmetic, on how many threads.
//!
//! Owns: `--device` and `--threads`. Refuses: a device that is not there, rather
//! than fall back in silence (law 8).

use anyhow::{Context, Result, bail};
use quarry_model::Precision;
use std::str::FromStr;
use tch::Device;

/// `--device`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU if there is one, else the processor.
    Auto,
    /// The processor.
    Cpu,
    /// One GPU by its number.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", number)) => match number.parse() {
                Ok(number) => Ok(Self::Cuda(number)),
                Err(_) => Err(format!(
                    "{number:?} is not the number of a GPU; write cuda:0"
                )),
            },
            _ => Err(format!("{text:?} is no device; write auto, cpu or cuda:0")),
        }
    }
}

/// Loads CUDA if it may be wanted, fixes the threads, and names the device. To be
/// called once, before any other use of libtorch.
///
/// # Errors
/// A GPU that is asked for but not there.
pub fn claim(choice: DeviceChoice, threads: usize) -> Result<Device> {
    let loaded = match choice {
        DeviceChoice::Cpu => false,
        _ => load_cuda(choice)?,
    };
    quarry_torch_ext::set_num_threads(threads)?;
    let gpus = match loaded {
        true => usize::try_from(tch::Cuda::device_count()).unwrap_or(0),
        false => 0,
    };
    let device = match choice {
        DeviceChoice::Cuda(number) if number >= gpus => {
            bail!(
                "there is no GPU {number}, libtorch sees {gpus}; choose --device cpu or install a CUDA libtorch"
            )
        }
        DeviceChoice::Cuda(number) => Device::Cuda(number),
        DeviceChoice::Auto if gpus > 0 => Device::Cuda(0),
        DeviceChoice::Auto | DeviceChoice::Cpu => Device::Cpu,
    };
    if device.is_cuda() {
        replayable().context("cannot make the GPU deterministic")?;
    }
    Ok(device)
}

/// A CUDA library that is there but broken is fatal only to who asked for a GPU.
fn load_cuda(choice: DeviceChoice) -> Result<bool> {
    match quarry_torch_ext::load_cuda() {
        Err(error) if choice == DeviceChoice::Auto => {
            tracing::warn!(%error, "CUDA cannot be loaded, training on the processor");
            Ok(false)
        }
        outcome => Ok(outcome?),
    }
}

/// A replay wants the same kernels in the same order. cuBLAS promises that only
/// with a fixed workspace, which must be asked for before the process starts.
fn replayable() -> Result<()> {
    if std::env::var_os("CUBLAS_WORKSPACE_CONFIG").is_none() {
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
        quarry_recipe::Precision::Auto if device.is_cuda() || cpu_multiplies_bf16() => {
            Precision::Bf16
        }
        quarry_recipe::Precision::Auto => Precision::F32,
    }
}

#[cfg(target_arch = "x86_64")]
fn cpu_multiplies_bf16() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_multiplies_bf16() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_parse() {
        assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
        assert_eq!("cpu".parse(), Ok(DeviceChoice::Cpu));
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(3)));
        assert!("cuda:x".parse::<DeviceChoice>().is_err());
        assert!("gpu".parse::<DeviceChoice>().is_err());
    }
}
