//! Model folders: sentence-transformers (modules.json) or plain Hugging Face.
//!
//! Reads everything but the weights, so that a damaged or unsupported folder is
//! refused before a gigabyte moves. Keeps the bytes of the tokenizer and config
//! files, because a saved model is a folder others load as it stands.

use crate::config::Config;
use crate::encoder::Pooling;
use crate::error::ModelError;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Files that travel with the weights when they are there.
const COMPANIONS: [&str; 12] = [
    "added_tokens.json",
    "config.json",
    "config_sentence_transformers.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "spm.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// One encoder's folder, weights not yet read.
#[derive(Debug, Clone)]
pub struct ModelFolder {
    /// The safetensors file.
    pub weights: PathBuf,
    /// Sizes and family.
    pub config: Config,
    /// What the folder says about pooling; `None` in a plain Hugging Face folder.
    pub pooling: Option<Pooling>,
    /// Whether the folder ends in a Normalize module.
    pub normalize: bool,
    /// Longest sequence in tokens, specials included.
    pub max_length: usize,
    /// Text prefixes by name (`query`, `document`) from config_sentence_transformers.json.
    pub prompts: BTreeMap<String, String>,
    /// Companion files by name.
    files: BTreeMap<String, Vec<u8>>,
}

/// The chain that modules.json describes.
struct Modules {
    transformer: PathBuf,
    pooling: Option<Pooling>,
    normalize: bool,
}

impl ModelFolder {
    /// Reads the folder's description.
    pub fn open(root: &Path) -> Result<Self, ModelError> {
        let modules = modules(root)?;
        let dir = &modules.transformer;
        let path = dir.join("config.json");
        let text = read_text(&path)?;
        let config = Config::parse(&text).map_err(|reason| ModelError::invalid(&path, reason))?;
        let weights = dir.join("model.safetensors");
        if !weights.is_file() {
            let reason = "no model.safetensors; save the model with safe_serialization=True (pickles are not read)";
            return Err(ModelError::invalid(dir, reason));
        }
        Ok(Self {
            weights,
            max_length: max_length(dir, &config)?,
            config,
            pooling: modules.pooling,
            normalize: modules.normalize,
            prompts: prompts(root)?,
            files: companions(root, dir)?,
        })
    }

    /// Writes everything but the weights as a sentence-transformers folder.
    /// `pooling` and `normalize` are what the encoder does, whatever the source said.
    pub(crate) fn write(
        &self,
        dir: &Path,
        pooling: Pooling,
        normalize: bool,
    ) -> Result<(), ModelError> {
        for (name, bytes) in &self.files {
            let bytes = match name.as_str() {
                "config.json" => &with_dtype_f32(bytes),
                _ => bytes,
            };
            write_file(&dir.join(name), bytes)?;
        }
        let mut modules = vec![
            module(0, "", "Transformer"),
            module(1, "1_Pooling", "Pooling"),
        ];
        if normalize {
            modules.push(module(2, "2_Normalize", "Normalize"));
        }
        write_json(&dir.join("modules.json"), &Value::Array(modules))?;
        write_json(
            &dir.join("1_Pooling").join("config.json"),
            &pooling_config(self.config.hidden_size, pooling),
        )?;
        write_json(
            &dir.join("sentence_bert_config.json"),
            &serde_json::json!({"max_seq_length": self.max_length, "do_lower_case": false}),
        )
    }
}

fn modules(root: &Path) -> Result<Modules, ModelError> {
    let path = root.join("modules.json");
    if !path.is_file() {
        if !root.join("config.json").is_file() {
            let reason = "neither modules.json nor config.json is here; give a sentence-transformers or Hugging Face model folder";
            return Err(ModelError::invalid(root, reason));
        }
        return Ok(Modules {
            transformer: root.to_owned(),
            pooling: None,
            normalize: false,
        });
    }
    let list = read_json(&path)?;
    let entries = list
        .as_array()
        .ok_or_else(|| ModelError::invalid(&path, "not a list of modules"))?;
    let mut chain = Modules {
        transformer: root.to_owned(),
        pooling: None,
        normalize: false,
    };
    for (position, entry) in entries.iter().enumerate() {
        let class = entry["type"].as_str().unwrap_or_default();
        let class = class.rsplit('.').next().unwrap_or_default();
        let folder = subfolder(root, entry["path"].as_str().unwrap_or_default(), &path)?;
        match (position, class) {
            (0, "Transformer") => chain.transformer = folder,
            (1, "Pooling") => chain.pooling = Some(pooling(&folder.join("config.json"))?),
            (_, "Normalize") if position >= 1 => chain.normalize = true,
            _ => {
                let reason = format!(
                    "module {position} is {class:?}, but only Transformer, Pooling and Normalize, in this order, are supported"
                );
                return Err(ModelError::invalid(&path, reason));
            }
        }
    }
    Ok(chain)
}

/// A module's folder; a name that leaves the model folder is refused.
fn subfolder(root: &Path, name: &str, file: &Path) -> Result<PathBuf, ModelError> {
    let plain = !name.contains(char::is_control)
        && Path::new(name)
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
    if plain {
        return Ok(root.join(name));
    }
    let reason = format!("module path {name:?} leaves the model folder");
    Err(ModelError::invalid(file, reason))
}

fn pooling(path: &Path) -> Result<Pooling, ModelError> {
    let config = read_json(path)?;
    let modes = pooling_modes(&config);
    if config["include_prompt"].as_bool() == Some(false) {
        let reason = "include_prompt is false, but prompts are always part of the pooled text here";
        return Err(ModelError::invalid(path, reason));
    }
    match modes.as_slice() {
        [mode] if mode == "cls" => Ok(Pooling::Cls),
        [mode] if mode == "mean" => Ok(Pooling::Mean),
        other => {
            let reason = format!("pooling {other:?} is not supported; use cls or mean");
            Err(ModelError::invalid(path, reason))
        }
    }
}

/// Modes from the new key (`pooling_mode`) or the old flags (`pooling_mode_cls_token` …).
fn pooling_modes(config: &Value) -> Vec<String> {
    match &config["pooling_mode"] {
        Value::String(mode) => return vec![mode.clone()],
        Value::Array(modes) => {
            return modes
                .iter()
                .filter_map(|m| m.as_str())
                .map(str::to_owned)
                .collect();
        }
        _ => {}
    }
    let flags = config.as_object().into_iter().flatten();
    flags
        .filter(|(_, on)| on.as_bool() == Some(true))
        .filter_map(|(key, _)| key.strip_prefix("pooling_mode_"))
        .map(|mode| {
            mode.trim_end_matches("_tokens")
                .trim_end_matches("_token")
                .to_owned()
        })
        .collect()
}

fn pooling_config(dim: i64, pooling: Pooling) -> Value {
    serde_json::json!({
        "word_embedding_dimension": dim,
        "pooling_mode_cls_token": pooling == Pooling::Cls,
        "pooling_mode_mean_tokens": pooling == Pooling::Mean,
        "pooling_mode_max_tokens": false,
        "pooling_mode_mean_sqrt_len_tokens": false,
        "pooling_mode_weightedmean_tokens": false,
        "pooling_mode_lasttoken": false,
        "include_prompt": true,
    })
}

fn module(idx: u32, path: &str, class: &str) -> Value {
    serde_json::json!({
        "idx": idx,
        "name": idx.to_string(),
        "path": path,
        "type": format!("sentence_transformers.models.{class}"),
    })
}

/// The smallest of what the module, the tokenizer and the position table allow.
fn max_length(dir: &Path, config: &Config) -> Result<usize, ModelError> {
    let mut length = config.max_tokens();
    for (file, key) in [
        ("sentence_bert_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
    ] {
        let path = dir.join(file);
        if !path.is_file() {
            continue;
        }
        // Tokenizers without a limit write 1e30, which is no u64 and stays out.
        if let Some(limit) = read_json(&path)?[key].as_u64() {
            length = length.min(usize::try_from(limit).unwrap_or(usize::MAX));
        }
    }
    if length < 3 {
        let reason = format!("max_seq_length {length} leaves no room between two special tokens");
        return Err(ModelError::invalid(dir, reason));
    }
    Ok(length)
}

fn prompts(root: &Path) -> Result<BTreeMap<String, String>, ModelError> {
    let path = root.join("config_sentence_transformers.json");
    if !path.is_file() {
        return Ok(BTreeMap::new());
    }
    let config = read_json(&path)?;
    let prompts = config["prompts"].as_object().into_iter().flatten();
    Ok(prompts
        .filter_map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned())))
        .collect())
}

fn companions(root: &Path, dir: &Path) -> Result<BTreeMap<String, Vec<u8>>, ModelError> {
    let mut files = BTreeMap::new();
    for name in COMPANIONS {
        let place = [dir, root]
            .map(|d| d.join(name))
            .into_iter()
            .find(|p| p.is_file());
        if let Some(path) = place {
            let bytes = std::fs::read(&path).map_err(|source| ModelError::Read { path, source })?;
            files.insert(name.to_owned(), bytes);
        }
    }
    Ok(files)
}

/// Weights are written in f32; a config that says float16 would make
/// transformers round them on loading. Bytes that say nothing stay as they are.
fn with_dtype_f32(config: &[u8]) -> Vec<u8> {
    let Ok(Value::Object(mut object)) = serde_json::from_slice(config) else {
        return config.to_vec();
    };
    let mut changed = false;
    for key in ["dtype", "torch_dtype"] {
        if let Some(value) = object.get_mut(key)
            && value != "float32"
        {
            *value = Value::from("float32");
            changed = true;
        }
    }
    if changed {
        pretty(&Value::Object(object))
    } else {
        config.to_vec()
    }
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut text = format!("{value:#}");
    text.push('\n');
    text.into_bytes()
}

fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    write_file(path, &pretty(value))
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::fs::write(path, bytes))
        .map_err(|e| ModelError::Write {
            path: path.to_owned(),
            reason: e.to_string(),
        })
}

fn read_text(path: &Path) -> Result<String, ModelError> {
    std::fs::read_to_string(path).map_err(|source| ModelError::Read {
        path: path.to_owned(),
        source,
    })
}

fn read_json(path: &Path) -> Result<Value, ModelError> {
    serde_json::from_str(&read_text(path)?)
        .map_err(|e| ModelError::invalid(path, format!("not JSON: {e}")))
}
