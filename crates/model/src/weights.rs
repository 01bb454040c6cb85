//! safetensors files in Hugging Face names, read and written.
//!
//! Every tensor the config implies must be there in its shape; nothing is ever
//! initialised at random. f16 and bf16 files become f32 masters.

use crate::config::Config;
use crate::error::ModelError;
use crate::names;
use quarry_torch_ext::Download;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// The tensors of one encoder.
pub(crate) struct Weights {
    /// f32, under canonical names.
    pub tensors: BTreeMap<String, Tensor>,
    /// Carried along unused (the pooler), under the family's names, f32.
    pub carried: BTreeMap<String, Tensor>,
}

impl Weights {
    /// The same tensors for another thread.
    pub fn shallow_clone(&self) -> Self {
        let same = |tensors: &BTreeMap<String, Tensor>| {
            let all = tensors.iter();
            all.map(|(name, t)| (name.clone(), t.shallow_clone()))
                .collect()
        };
        Self {
            tensors: same(&self.tensors),
            carried: same(&self.carried),
        }
    }

    /// Begins to copy them to main memory; on the CPU they are copied here.
    pub fn begin_copy(&self) -> Result<WeightsCopy, ModelError> {
        let begin = |tensors: &BTreeMap<String, Tensor>| -> Result<_, ModelError> {
            let mut downloads = BTreeMap::new();
            for (name, tensor) in tensors {
                downloads.insert(name.clone(), Download::begin(tensor)?);
            }
            Ok(downloads)
        };
        Ok(WeightsCopy {
            tensors: begin(&self.tensors)?,
            carried: begin(&self.carried)?,
        })
    }
}

/// The tensors of one encoder, on their way to main memory.
pub(crate) struct WeightsCopy {
    tensors: BTreeMap<String, Download>,
    carried: BTreeMap<String, Download>,
}

impl WeightsCopy {
    /// The tensors in main memory, once they are there.
    pub fn wait(self) -> Result<Weights, ModelError> {
        let wait = |downloads: BTreeMap<String, Download>| -> Result<_, ModelError> {
            let mut tensors = BTreeMap::new();
            for (name, download) in downloads {
                tensors.insert(name, download.wait()?);
            }
            Ok(tensors)
        };
        Ok(Weights {
            tensors: wait(self.tensors)?,
            carried: wait(self.carried)?,
        })
    }
}

/// Reads the weights of `config` from a safetensors file.
pub(crate) fn read(path: &Path, config: &Config, device: Device) -> Result<Weights, ModelError> {
    let bytes = std::fs::read(path).map_err(|source| ModelError::Read {
        path: path.to_owned(),
        source,
    })?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| {
        ModelError::invalid(
            path,
            format!("not a whole safetensors file ({e}); copy it again"),
        )
    })?;
    let mut found = BTreeMap::new();
    for (name, view) in file.iter() {
        let normalised = names::normalised(config.family, name);
        if let Some((other, _)) = found.insert(normalised, (name.to_owned(), view)) {
            let reason =
                format!("tensors {other:?} and {name:?} are the same weight of the encoder");
            return Err(ModelError::invalid(path, reason));
        }
    }
    let mut tensors = BTreeMap::new();
    for (canonical, shape) in names::expected(config) {
        let name = names::in_family(config.family, &canonical);
        let Some((original, view)) = found.remove(&name) else {
            let path = path.to_owned();
            return Err(ModelError::MissingTensor { path, name });
        };
        let tensor = tensor_of(path, &original, &view, device)?;
        if tensor.size() != shape {
            return Err(ModelError::TensorShape {
                path: path.to_owned(),
                name: original,
                found: tensor.size(),
                expected: shape,
            });
        }
        tensors.insert(canonical, tensor);
    }
    refuse_layers(path, config, found.keys())?;
    let carried = leftovers(path, found, device)?;
    Ok(Weights { tensors, carried })
}

/// Refuses layers beyond those of the config: without them the encoder would be another one, and embed nonsense.
fn refuse_layers<'a>(
    path: &Path,
    config: &Config,
    left: impl Iterator<Item = &'a String>,
) -> Result<(), ModelError> {
    let last = left
        .filter_map(|name| names::layer(config.family, name))
        .max();
    match last {
        Some(last) if last >= config.layers.unsigned_abs() => Err(ModelError::invalid(
            path,
            format!(
                "it holds layer {last}, counted from 0, where the config asks for {} in all; use the config these weights came with, or remove the layers beyond it from the file",
                config.layers
            ),
        )),
        _ => Ok(()),
    }
}

/// Keeps the pooler, reports what nobody asked for.
fn leftovers(
    path: &Path,
    found: BTreeMap<String, (String, TensorView<'_>)>,
    device: Device,
) -> Result<BTreeMap<String, Tensor>, ModelError> {
    let mut carried = BTreeMap::new();
    let mut unexpected = Vec::new();
    for (name, (original, view)) in found {
        if names::carried(&name) {
            let tensor = tensor_of(path, &original, &view, device)?;
            carried.insert(name, tensor);
        } else if !names::ignorable(&name) {
            unexpected.push(original);
        }
    }
    if !unexpected.is_empty() {
        tracing::warn!(path = %path.display(), tensors = ?unexpected, "tensors the encoder does not use are left out");
    }
    Ok(carried)
}

fn tensor_of(
    path: &Path,
    name: &str,
    view: &TensorView<'_>,
    device: Device,
) -> Result<Tensor, ModelError> {
    let kind = match view.dtype() {
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        other => {
            let reason = format!("tensor {name:?} is {other:?}, but weights are f32, f16 or bf16");
            return Err(ModelError::invalid(path, reason));
        }
    };
    let mut shape = Vec::with_capacity(view.shape().len());
    for &size in view.shape() {
        let size = i64::try_from(size)
            .map_err(|_| ModelError::invalid(path, format!("tensor {name:?} is too large")))?;
        shape.push(size);
    }
    let tensor = Tensor::f_from_data_size(view.data(), &shape, kind)?;
    Ok(tensor.f_to_kind(Kind::Float)?.f_to_device(device)?)
}

/// Writes `weights` in f32 under the family's names, as transformers does:
/// sorted, with `{"format": "pt"}`. The bytes are a function of the weights alone.
pub(crate) fn write(path: &Path, config: &Config, weights: &Weights) -> Result<(), ModelError> {
    let failed = |reason: String| ModelError::Write {
        path: path.to_owned(),
        reason,
    };
    let mut buffers = BTreeMap::new();
    for (canonical, tensor) in &weights.tensors {
        let name = names::in_family(config.family, canonical);
        buffers.insert(name, (shape_of(tensor), bytes_of(tensor)?));
    }
    for (name, tensor) in &weights.carried {
        buffers.insert(name.clone(), (shape_of(tensor), bytes_of(tensor)?));
    }
    let mut views = Vec::with_capacity(buffers.len());
    for (name, (shape, bytes)) in &buffers {
        let view =
            TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(|e| failed(e.to_string()))?;
        views.push((name.as_str(), view));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::tensor::serialize_to_file(views, Some(metadata), path)
        .map_err(|e| failed(e.to_string()))
}

fn shape_of(tensor: &Tensor) -> Vec<usize> {
    tensor
        .size()
        .iter()
        .map(|&s| s.unsigned_abs() as usize)
        .collect()
}

fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>, ModelError> {
    let tensor = tensor
        .f_detach()?
        .f_to_device(Device::Cpu)?
        .f_to_kind(Kind::Float)?
        .f_contiguous()?;
    let mut bytes = vec![0u8; tensor.numel() * 4];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok(bytes)
}
