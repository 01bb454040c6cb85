//! Late loading of CUDA: one binary for machines with a GPU and without.
//!
//! Owns the search for `libtorch_cuda.so`, its loading, the count of GPUs afterwards and how
//! one computes. Refuses to choose a device: that is the program's `--device`.
#![allow(unsafe_code)] // Calls the shim.

use std::{
    env,
    ffi::{CStr, CString, OsStr},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    sync::Mutex,
};

use tch::Device;

use crate::{Error, ffi, set_f32_partial_sums};

const LIBRARY: &str = "libtorch_cuda.so";

/// Loads `libtorch_cuda.so` into a program that was linked against the CPU libtorch,
/// and says whether there was one to load. It is looked for beside the libtorch in use,
/// then on `LD_LIBRARY_PATH`, then in `$LIBTORCH/lib`.
///
/// Call it first thing in `main`: libtorch remembers the first answer to "is there
/// CUDA", so one early question would hide the GPU for good. Calling it again is free.
///
/// # Errors
/// When the library is there but cannot be loaded, as with one of another version.
pub fn load_cuda() -> Result<bool, Error> {
    static LOADED: Mutex<Option<bool>> = Mutex::new(None);
    let mut loaded = LOADED
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(known) = *loaded {
        return Ok(known);
    }
    let found = find(LIBRARY, &search_path());
    if let Some(path) = &found {
        load(path)?;
    }
    *loaded = Some(found.is_some());
    Ok(found.is_some())
}

/// How many GPUs libtorch sees, once [`load_cuda`] has loaded what there is. As that, to be
/// called first thing.
///
/// # Errors
/// As for [`load_cuda`].
pub fn gpus() -> Result<usize, Error> {
    match load_cuda()? {
        true => Ok(usize::try_from(tch::Cuda::device_count()).unwrap_or(0)),
        false => Ok(0),
    }
}

/// The GPU of this number, with its arithmetic fixed for the process: bf16 products are
/// summed in f32, as a processor does. Without a number, the processor.
///
/// # Errors
/// When libtorch refuses.
pub fn claim_device(gpu: Option<usize>) -> Result<Device, Error> {
    let Some(number) = gpu else {
        return Ok(Device::Cpu);
    };
    set_f32_partial_sums(true)?;
    Ok(Device::Cuda(number))
}

/// The folders to look into, in order.
fn search_path() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some(folder) = libtorch_cpu_path().as_deref().and_then(Path::parent) {
        folders.push(folder.to_owned());
    }
    let on_path = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    folders.extend(env::split_paths(&on_path).filter(|folder| folder.is_absolute()));
    folders.extend(env::var_os("LIBTORCH").map(|root| Path::new(&root).join("lib")));
    folders
}

fn find(library: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    folders
        .iter()
        .map(|folder| folder.join(library))
        .find(|path| path.is_file())
}

/// The file from which the running libtorch was loaded.
fn libtorch_cpu_path() -> Option<PathBuf> {
    // SAFETY: null, or a C string that lives as long as the library is loaded: always.
    let path = unsafe {
        let path = ffi::quarry_libtorch_cpu_path();
        (!path.is_null()).then(|| CStr::from_ptr(path))
    };
    path.map(|path| PathBuf::from(OsStr::from_bytes(path.to_bytes())))
}

fn load(path: &Path) -> Result<(), Error> {
    let refused = |reason: String| Error::Library {
        path: path.display().to_string(),
        reason,
    };
    let name = CString::new(path.as_os_str().to_owned().into_vec())
        .map_err(|_| refused("its path holds a zero byte".to_owned()))?;
    // SAFETY: `name` is a C string. Loading runs the library's initialisers, which
    // register operators: libtorch made them to be loaded like this (Python does so).
    match unsafe { ffi::take(ffi::quarry_load_library(name.as_ptr())) } {
        None => Ok(()),
        Some(reason) => Err(refused(reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_running_libtorch() {
        let path = libtorch_cpu_path().unwrap();
        assert!(path.is_file(), "{}", path.display());
        assert!(
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("libtorch_cpu.so")
        );
    }

    #[test]
    fn takes_the_first_folder_that_has_it() {
        let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let folders = [here.join("nowhere"), here.join("src"), here.clone()];
        assert_eq!(find("Cargo.toml", &folders), Some(here.join("Cargo.toml")));
        assert_eq!(find(LIBRARY, &folders[..2]), None);
    }

    #[test]
    fn a_file_that_is_no_library_is_refused_by_name() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let message = load(&path).unwrap_err().to_string();
        assert!(
            message.contains("Cargo.toml exists but cannot be loaded"),
            "{message}"
        );
    }
}
