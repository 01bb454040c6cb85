//! The option `--device` of the programs that compute. Refuses to look for GPUs:
//! that takes a native library.

use crate::error::{Result, ServiceError};
use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;

/// What `--device` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU, or the processor if there is none.
    Auto,
    /// The processor, also where there is a GPU.
    Cpu,
    /// The GPU of this number and no other device.
    Cuda(usize),
}

/// What the driver of the first NVIDIA GPU makes.
const GPU_FILE: &str = "/dev/nvidia0";

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => (text.strip_prefix("cuda:").and_then(|n| n.parse().ok()))
                .map(Self::Cuda)
                .ok_or_else(|| "write auto, cpu or cuda:N".to_owned()),
        }
    }
}

impl DeviceChoice {
    /// The number of the GPU to use; `None` is the processor. `look` loads CUDA and counts
    /// GPUs, and is not called for the processor.
    ///
    /// # Errors
    /// [`ServiceError::NoGpu`]; and [`ServiceError::Cuda`] where `look` fails, which is fatal
    /// only to who asked for a GPU.
    pub fn claim<E: Display>(
        self,
        look: impl FnOnce() -> std::result::Result<usize, E>,
    ) -> Result<Option<usize>> {
        if self == Self::Cpu {
            return Ok(None);
        }
        let gpus = match look() {
            Ok(gpus) => gpus,
            Err(error) if self == Self::Auto => {
                tracing::warn!(%error, "CUDA cannot be loaded, computing on the processor");
                return Ok(None);
            }
            Err(error) => {
                return Err(ServiceError::Cuda {
                    reason: error.to_string(),
                });
            }
        };
        let hidden = std::env::var_os("CUDA_VISIBLE_DEVICES").is_some();
        if self.overlooks(gpus, Path::new(GPU_FILE).exists(), hidden) {
            tracing::warn!(
                "this machine seems to have a GPU ({GPU_FILE}), but libtorch sees none, computing on the processor; put a libtorch with CUDA on LD_LIBRARY_PATH, or say --device cpu"
            );
        }
        self.gpu(gpus)
    }

    /// Whether the processor is taken where no GPU was seen of `gpus` although one is there,
    /// which nobody has hidden.
    fn overlooks(self, gpus: usize, there: bool, hidden: bool) -> bool {
        self == Self::Auto && gpus == 0 && there && !hidden
    }

    /// The number of the GPU to use where there are `gpus`; `None` is the processor.
    ///
    /// # Errors
    /// [`ServiceError::NoGpu`], rather than fall back in silence (law 8).
    pub fn gpu(self, gpus: usize) -> Result<Option<usize>> {
        match self {
            Self::Cuda(number) if number >= gpus => Err(ServiceError::NoGpu { number, gpus }),
            Self::Cuda(number) => Ok(Some(number)),
            Self::Auto if gpus > 0 => Ok(Some(0)),
            Self::Auto | Self::Cpu => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read() {
        assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
        assert_eq!("cpu".parse(), Ok(DeviceChoice::Cpu));
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(3)));
        for wrong in ["gpu", "cuda:", "cuda:x", "CPU", ""] {
            let refused = wrong.parse::<DeviceChoice>().unwrap_err();
            assert!(refused.contains("cuda:N"), "{wrong}");
        }
    }

    #[test]
    fn auto_takes_what_there_is_and_a_number_insists() {
        assert_eq!(DeviceChoice::Auto.gpu(0).unwrap(), None);
        assert_eq!(DeviceChoice::Auto.gpu(2).unwrap(), Some(0));
        assert_eq!(DeviceChoice::Cpu.gpu(2).unwrap(), None);
        assert_eq!(DeviceChoice::Cuda(1).gpu(2).unwrap(), Some(1));
        let refused = DeviceChoice::Cuda(2).gpu(2).unwrap_err().to_string();
        assert!(refused.contains("there is no GPU 2"), "{refused}");
    }

    #[test]
    fn a_gpu_is_overlooked_only_by_who_would_take_it() {
        assert!(DeviceChoice::Auto.overlooks(0, true, false));
        assert!(!DeviceChoice::Auto.overlooks(1, true, false));
        assert!(!DeviceChoice::Auto.overlooks(0, false, false));
        assert!(!DeviceChoice::Auto.overlooks(0, true, true));
        assert!(!DeviceChoice::Cpu.overlooks(0, true, false));
        assert!(!DeviceChoice::Cuda(0).overlooks(0, true, false));
    }

    #[test]
    fn a_broken_cuda_is_fatal_only_to_who_asked_for_a_gpu() {
        let broken = || Err::<usize, _>("libtorch_cuda.so cannot be loaded");
        let looked = |gpus: usize| move || Ok::<_, String>(gpus);
        assert_eq!(DeviceChoice::Cpu.claim(broken).unwrap(), None);
        assert_eq!(DeviceChoice::Auto.claim(broken).unwrap(), None);
        let refused = DeviceChoice::Cuda(0).claim(broken).unwrap_err().to_string();
        for word in ["libtorch_cuda.so cannot be loaded", "--device cpu"] {
            assert!(refused.contains(word), "{refused}");
        }
        assert_eq!(DeviceChoice::Auto.claim(looked(1)).unwrap(), Some(0));
        assert_eq!(DeviceChoice::Cuda(1).claim(looked(2)).unwrap(), Some(1));
        assert!(DeviceChoice::Cuda(1).claim(looked(1)).is_err());
    }
}
