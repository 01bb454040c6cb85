//! Fixture folders and small conveniences shared by this crate's tests.
#![allow(dead_code, clippy::unwrap_used)]

use quarry_model::{DualEncoder, LoadOptions, PackedBatch, Pooling, Precision, Specials};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tch::Tensor;

pub const FAMILIES: [&str; 5] = ["bert", "bert-tanh", "roberta", "xlm-roberta", "distilbert"];

pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

/// The real encoder, where `scripts/setup` puts it.
pub fn minilm() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.deps/models/all-MiniLM-L6-v2");
    if !dir.is_dir() {
        eprintln!("SKIPPED: {} is absent; run scripts/setup", dir.display());
        return None;
    }
    Some(dir)
}

pub fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

pub fn options(pooling: Pooling, precision: Precision, trainable: bool) -> LoadOptions {
    LoadOptions {
        pooling: Some(pooling),
        precision,
        trainable,
        ..LoadOptions::default()
    }
}

pub fn load(name: &str, pooling: Pooling) -> DualEncoder {
    DualEncoder::load(&data(name), &options(pooling, Precision::F32, false)).unwrap()
}

/// What `scripts/reference/model_fixtures.py` wrote beside a tiny encoder.
pub struct Expected {
    pub specials: Specials,
    pub contents: Vec<Vec<u32>>,
    pub json: Value,
}

pub fn expected(name: &str) -> Expected {
    let json = json(&data(name).join("expected.json"));
    let ids = |v: &Value| -> Vec<u32> { serde_json::from_value(v.clone()).unwrap() };
    let specials = ids(&json["specials"]);
    Expected {
        specials: Specials {
            first: specials[0],
            last: specials[1],
        },
        contents: json["contents"]
            .as_array()
            .unwrap()
            .iter()
            .map(ids)
            .collect(),
        json,
    }
}

impl Expected {
    pub fn batch(&self) -> PackedBatch {
        PackedBatch::new(self.contents.iter().map(Vec::as_slice), self.specials, 38)
    }

    pub fn vectors(&self, key: &str) -> Vec<f32> {
        matrix(&self.json[key])
    }
}

pub fn matrix(rows: &Value) -> Vec<f32> {
    let rows: Vec<Vec<f32>> = serde_json::from_value(rows.clone()).unwrap();
    rows.concat()
}

pub fn flat(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.detach().contiguous().view(-1)).unwrap()
}

pub fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(x, y)| (x - y).abs())
        .fold(0.0, f32::max)
}

/// Smallest cosine between corresponding rows.
pub fn min_cosine(a: &[f32], b: &[f32], dim: usize) -> f64 {
    let dot = |x: &[f32], y: &[f32]| -> f64 {
        x.iter()
            .zip(y)
            .map(|(p, q)| f64::from(*p) * f64::from(*q))
            .sum()
    };
    let rows = a.chunks_exact(dim).zip(b.chunks_exact(dim));
    rows.map(|(x, y)| dot(x, y) / (dot(x, x) * dot(y, y)).sqrt())
        .fold(1.0, f64::min)
}
