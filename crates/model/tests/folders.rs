//! Folders: what is written loads again, byte for byte; what is damaged or
//! unsupported is refused with one sentence that names the place.
#![allow(clippy::unwrap_used)]

mod support;

use quarry_model::{DualEncoder, LoadOptions, Pooling, Precision};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use support::{FAMILIES, data, expected, flat, load, max_difference, options};
use tempfile::TempDir;

type Owned = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn copy(family: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    for file in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        std::fs::copy(data(family).join(file), dir.path().join(file)).unwrap();
    }
    dir
}

/// Rewrites the weights of a copied fixture.
fn with_weights(family: &str, change: impl Fn(&mut Owned)) -> TempDir {
    let dir = copy(family);
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Owned = file
        .iter()
        .map(|(name, v)| {
            (
                name.to_owned(),
                (v.dtype(), v.shape().to_vec(), v.data().to_vec()),
            )
        })
        .collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    std::fs::write(&path, serialize(views, None).unwrap()).unwrap();
    dir
}

fn with_config(family: &str, key: &str, value: serde_json::Value) -> TempDir {
    let dir = copy(family);
    let path = dir.path().join("config.json");
    let mut config = support::json(&path);
    config[key] = value;
    std::fs::write(&path, config.to_string()).unwrap();
    dir
}

fn refusal(dir: &Path) -> String {
    let Err(error) = DualEncoder::load(dir, &LoadOptions::default()) else {
        panic!("the folder was accepted");
    };
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

fn vectors(dir: &Path) -> Vec<f32> {
    let model = DualEncoder::load(dir, &options(Pooling::Mean, Precision::F32, false)).unwrap();
    flat(
        &model
            .query()
            .embed(&expected("bert").batch(), None)
            .unwrap(),
    )
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(files(&path)),
            false => drop(all.insert(path.clone(), std::fs::read(&path).unwrap())),
        }
    }
    all
}

fn relative(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let strip = |path: PathBuf| path.strip_prefix(dir).unwrap().to_owned();
    files(dir)
        .into_iter()
        .map(|(path, bytes)| (strip(path), bytes))
        .collect()
}

#[test]
fn saved_loaded_and_saved_again_is_the_same_folder() {
    for family in FAMILIES {
        let (first, second) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let options = LoadOptions {
            normalize: Some(true),
            ..options(Pooling::Mean, Precision::F32, true)
        };
        DualEncoder::load(&data(family), &options)
            .unwrap()
            .save(first.path())
            .unwrap();
        // Pooling and normalisation now come from the folder.
        let again = DualEncoder::load(first.path(), &LoadOptions::default()).unwrap();
        assert_eq!(
            (again.query().pooling(), again.query().normalize()),
            (Pooling::Mean, true)
        );
        again.save(second.path()).unwrap();
        assert_eq!(relative(first.path()), relative(second.path()), "{family}");
        let source = std::fs::read(data(family).join("model.safetensors")).unwrap();
        let saved = std::fs::read(first.path().join("model.safetensors")).unwrap();
        assert_eq!(
            tensors(&source),
            tensors(&saved),
            "{family}: the pooler too"
        );
        assert!(relative(first.path()).contains_key(Path::new("tokenizer.json")));
    }
}

fn tensors(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    file.iter()
        .map(|(name, view)| (name.to_owned(), view.data().to_vec()))
        .collect()
}

#[test]
fn separate_towers_are_saved_as_two_folders() {
    let dir = TempDir::new().unwrap();
    let mut model = load("bert", Pooling::Cls);
    model.untie().unwrap();
    model.save(dir.path()).unwrap();
    let again = DualEncoder::load(dir.path(), &LoadOptions::default()).unwrap();
    assert!(!again.shared());
    assert_eq!(again.parameters().len(), model.parameters().len());
    let batch = expected("bert").batch();
    let pair = again.embed_pair(&batch, &batch, None).unwrap();
    assert_eq!(flat(&pair.queries), flat(&pair.passages));
}

#[test]
fn prefixes_old_names_and_heads_are_understood() {
    let dir = with_weights("bert", |tensors| {
        let renamed = std::mem::take(tensors).into_iter().map(|(name, tensor)| {
            let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
            (
                format!("bert.{}", name.replace("LayerNorm.bias", "LayerNorm.beta")),
                tensor,
            )
        });
        tensors.extend(renamed);
        tensors.insert(
            "cls.predictions.bias".to_owned(),
            (Dtype::F32, vec![1], vec![0; 4]),
        );
    });
    assert_eq!(vectors(dir.path()), vectors(&data("bert")));
}

#[test]
fn half_precision_files_become_f32() {
    for dtype in [Dtype::F16, Dtype::BF16] {
        let dir = with_weights("bert", |tensors| {
            for (kind, _, bytes) in tensors.values_mut() {
                let values = bytes
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                *bytes = values.flat_map(|x| rounded(x, dtype)).collect();
                *kind = dtype;
            }
        });
        let difference = max_difference(&vectors(dir.path()), &vectors(&data("bert")));
        assert!(
            difference > 0.0 && difference < 0.1,
            "{dtype:?}: {difference}"
        );
    }
}

fn rounded(x: f32, dtype: Dtype) -> [u8; 2] {
    let kind = if dtype == Dtype::F16 {
        tch::Kind::Half
    } else {
        tch::Kind::BFloat16
    };
    let mut bytes = [0u8; 2];
    tch::Tensor::from_slice(&[x])
        .to_kind(kind)
        .copy_data_u8(&mut bytes, 1);
    bytes
}

#[test]
fn damaged_weights_are_refused() {
    let dir = with_weights("bert", |t| {
        drop(t.remove("encoder.layer.1.output.dense.bias"))
    });
    assert!(refusal(dir.path()).contains("has no tensor \"encoder.layer.1.output.dense.bias\""));
    let dir = with_weights("distilbert", |t| {
        drop(t.remove("transformer.layer.0.ffn.lin1.weight"))
    });
    assert!(refusal(dir.path()).contains("has no tensor \"transformer.layer.0.ffn.lin1.weight\""));
    let dir = with_config("bert", "vocab_size", 96.into());
    let message = refusal(dir.path());
    assert!(
        message.contains("word_embeddings.weight\" is [97, 32] but the config asks for [96, 32]")
    );
    let dir = copy("bert");
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for broken in [
        &bytes[..bytes.len() - 1],
        &bytes[..100],
        &[],
        b"not a safetensors file",
    ] {
        std::fs::write(&path, broken).unwrap();
        assert!(refusal(dir.path()).contains("not a whole safetensors file"));
    }
    std::fs::remove_file(&path).unwrap();
    assert!(refusal(dir.path()).contains("no model.safetensors"));
}

#[test]
fn surplus_layers_are_refused_and_other_surplus_tensors_are_not() {
    for (family, key, layers) in [
        ("bert", "num_hidden_layers", "encoder.layer."),
        ("roberta", "num_hidden_layers", "encoder.layer."),
        ("distilbert", "n_layers", "transformer.layer."),
    ] {
        let message = refusal(with_config(family, key, 1.into()).path());
        assert!(
            message
                .contains("it holds layer 1, counted from 0, where the config asks for 1 in all"),
            "{message}"
        );
        let dir = with_weights(family, |tensors| {
            let last = format!("{layers}1.");
            let copies: Owned = tensors
                .iter()
                .filter_map(|(name, tensor)| {
                    let part = name.strip_prefix(&last)?;
                    Some((format!("{layers}2.{part}"), tensor.clone()))
                })
                .collect();
            assert!(!copies.is_empty());
            tensors.extend(copies);
        });
        assert!(refusal(dir.path()).contains("model.safetensors: it holds layer 2"));
    }
    let dir = with_weights("bert", |tensors| {
        for name in [
            "classifier.bias",
            "encoder.layer.0.crossattention.self.query.bias",
        ] {
            tensors.insert(name.to_owned(), (Dtype::F32, vec![1], vec![0; 4]));
        }
    });
    assert_eq!(vectors(dir.path()), vectors(&data("bert")));
}

#[test]
fn unsupported_configs_are_refused() {
    for (key, value, sentence) in [
        (
            "model_type",
            "mpnet",
            "model_type \"mpnet\" is not supported",
        ),
        ("hidden_act", "silu", "hidden_act \"silu\" is not supported"),
        (
            "position_embedding_type",
            "relative_key",
            "only absolute positions",
        ),
    ] {
        assert!(refusal(with_config("bert", key, value.into()).path()).contains(sentence));
    }
    let message = refusal(with_config("bert", "num_attention_heads", 5.into()).path());
    assert!(message.contains("hidden_size 32 is not a multiple of num_attention_heads 5"));
    assert!(refusal(Path::new("/nonexistent")).contains("neither modules.json nor config.json"));
}

#[test]
fn unsupported_modules_are_refused() {
    let dir = copy("bert");
    let modules = |list: &str| std::fs::write(dir.path().join("modules.json"), list).unwrap();
    let transformer = r#"{"type": "sentence_transformers.models.Transformer", "path": ""}"#;
    modules(&format!(
        r#"[{transformer}, {{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}}]"#
    ));
    assert!(refusal(dir.path()).contains("module 1 is \"Dense\""));
    modules(&format!(
        r#"[{transformer}, {{"type": "x.Pooling", "path": "../1_Pooling"}}]"#
    ));
    assert!(refusal(dir.path()).contains("leaves the model folder"));
    modules(&format!(
        r#"[{transformer}, {{"type": "x.Pooling", "path": "1_Pooling"}}]"#
    ));
    std::fs::create_dir(dir.path().join("1_Pooling")).unwrap();
    let config = dir.path().join("1_Pooling/config.json");
    std::fs::write(&config, r#"{"pooling_mode_max_tokens": true}"#).unwrap();
    assert!(refusal(dir.path()).contains("pooling [\"max\"] is not supported"));
    // The key sentence-transformers writes since version 6.
    std::fs::write(
        &config,
        r#"{"embedding_dimension": 32, "pooling_mode": "mean"}"#,
    )
    .unwrap();
    let model = DualEncoder::load(dir.path(), &LoadOptions::default()).unwrap();
    assert_eq!(model.query().pooling(), Pooling::Mean);
}

#[test]
fn a_model_saved_from_a_half_precision_config_says_float32() {
    let dir = with_config("bert", "dtype", "float16".into());
    let out = TempDir::new().unwrap();
    DualEncoder::load(dir.path(), &LoadOptions::default())
        .unwrap()
        .save(out.path())
        .unwrap();
    assert_eq!(
        support::json(&out.path().join("config.json"))["dtype"],
        "float32"
    );
}
