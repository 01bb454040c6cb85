//! Damaged model folders: whatever the bytes, an error of one line or an encoder
//! that keeps its promises, never a panic.
//!
//! The mutations are drawn from a fixed seed. This crate links libtorch, which no
//! fuzz target does, so there is none for it.
#![allow(clippy::unwrap_used)]

mod support;

use quarry_corpus::Tokenize;
use quarry_model::{
    Config, DualEncoder, ModelError, ModelFolder, Pooling, Precision, TextTokenizer,
};
use std::path::Path;
use support::{FAMILIES, data, options};
use tempfile::TempDir;

/// What a damaged number or value may become.
const VALUES: [&str; 16] = [
    "0",
    "-1",
    "3",
    "16777216",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551616",
    "1e308",
    "0.5",
    "null",
    "true",
    "\"\"",
    "\"a\\nb\"",
    "\"../x\"",
    "[]",
    "{}",
];

/// Draws mutations of bytes (xorshift64*).
struct Mutator(u64);

impl Mutator {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        high as usize % bound
    }

    /// One to three mutations of the first `reach` bytes.
    fn mutate(&mut self, bytes: &[u8], reach: usize) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(3) {
            let reach = reach.min(bytes.len()).max(1);
            let at = self.below(reach);
            let end = (at + 1 + self.below(12)).min(bytes.len());
            match self.below(6) {
                0 => bytes[at] = self.below(256) as u8,
                1 => drop(bytes.drain(at..end)),
                2 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
                3 => bytes.truncate(end),
                _ => self.replace_value(&mut bytes, at, reach),
            }
            if bytes.is_empty() {
                return bytes;
            }
        }
        bytes
    }

    /// Replaces the JSON value (up to a comma or bracket) that follows the next colon.
    fn replace_value(&mut self, bytes: &mut Vec<u8>, at: usize, reach: usize) {
        let reach = reach.min(bytes.len());
        let Some(colon) = bytes[at..reach].iter().position(|byte| *byte == b':') else {
            return;
        };
        let start = at + colon + 1;
        let length = bytes[start..].iter().position(|byte| b",]}".contains(byte));
        let end = length.map_or(bytes.len(), |length| start + length);
        let value = VALUES[self.below(VALUES.len())];
        bytes.splice(start..end, value.bytes());
    }
}

fn told_well<T>(outcome: Result<T, ModelError>, accepted: &mut usize) -> Option<T> {
    match outcome {
        Ok(value) => {
            *accepted += 1;
            Some(value)
        }
        Err(error) => {
            let message = error.to_string();
            assert!(!message.chars().any(char::is_control), "{message:?}");
            None
        }
    }
}

/// A copy of a fixture that has every file a folder may describe itself with.
fn folder(family: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    let encoder = DualEncoder::load(
        &data(family),
        &options(Pooling::Mean, Precision::F32, false),
    );
    encoder.unwrap().save(dir.path()).unwrap();
    let prompts = r#"{"prompts": {"query": "query: ", "document": ""}}"#;
    std::fs::write(
        dir.path().join("config_sentence_transformers.json"),
        prompts,
    )
    .unwrap();
    dir
}

fn holds(config: &Config) {
    assert!(config.max_tokens() >= 3);
    assert!(config.hidden_size > 0 && config.hidden_size % config.heads == 0);
    assert!((1..=1024).contains(&config.layers) && config.type_rows >= 0);
}

#[test]
fn any_config_is_refused_or_possible() {
    let mut mutator = Mutator(1);
    let mut accepted = 0;
    for family in FAMILIES {
        let bytes = std::fs::read(data(family).join("config.json")).unwrap();
        for _ in 0..3000 {
            let mutated = mutator.mutate(&bytes, bytes.len());
            let Ok(text) = String::from_utf8(mutated) else {
                continue;
            };
            match Config::parse(&text) {
                Ok(config) => {
                    accepted += 1;
                    holds(&config);
                }
                Err(reason) => assert!(!reason.contains('\n'), "{reason:?}"),
            }
        }
    }
    assert!(accepted > 500, "{accepted}");
}

#[test]
fn sizes_that_overflow_or_fill_the_memory_are_refused() {
    let text = std::fs::read_to_string(data("roberta").join("config.json")).unwrap();
    for (key, value) in [
        ("pad_token_id", i64::MAX),
        ("pad_token_id", i64::MIN),
        ("max_position_embeddings", i64::MIN),
        ("num_hidden_layers", 1 << 24),
        ("type_vocab_size", -5),
    ] {
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config[key] = value.into();
        let reason = Config::parse(&config.to_string()).unwrap_err();
        assert!(reason.contains(key), "{reason}");
    }
    for (key, value) in [("hidden_dropout_prob", 1.5), ("layer_norm_eps", -1.0)] {
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config[key] = value.into();
        assert!(Config::parse(&config.to_string()).is_err(), "{key}");
    }
}

#[test]
fn any_description_is_refused_or_possible() {
    let mut mutator = Mutator(2);
    let mut accepted = 0;
    let dir = folder("bert");
    for file in [
        "config.json",
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
        "tokenizer_config.json",
        "config_sentence_transformers.json",
    ] {
        let path = dir.path().join(file);
        let bytes = std::fs::read(&path).unwrap();
        for _ in 0..300 {
            std::fs::write(&path, mutator.mutate(&bytes, bytes.len())).unwrap();
            if let Some(folder) = told_well(ModelFolder::open(dir.path()), &mut accepted) {
                holds(&folder.config);
                assert!((3..=folder.config.max_tokens()).contains(&folder.max_length));
                assert!(folder.weights.starts_with(dir.path()));
            }
        }
        std::fs::write(&path, bytes).unwrap();
    }
    assert!(accepted > 100, "{accepted}");
}

#[test]
fn any_weights_are_refused_or_whole() {
    let mut mutator = Mutator(3);
    let mut accepted = 0;
    for family in ["bert", "distilbert"] {
        let dir = folder(family);
        let path = dir.path().join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for round in 0..300 {
            // The first eight bytes, the length of the header, would else be met too rarely.
            let reach = if round % 8 == 0 { 8 } else { header };
            std::fs::write(&path, mutator.mutate(&bytes, reach)).unwrap();
            load(dir.path(), &mut accepted);
        }
        for length in [0, 7, 8, header, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let before = accepted;
            load(dir.path(), &mut accepted);
            assert_eq!(accepted, before, "{length} of {} bytes", bytes.len());
        }
        std::fs::write(&path, bytes).unwrap();
        let before = accepted;
        load(dir.path(), &mut accepted);
        assert_eq!(accepted, before + 1);
    }
}

fn load(dir: &Path, accepted: &mut usize) {
    let encoder = DualEncoder::load(dir, &options(Pooling::Mean, Precision::F32, false));
    told_well(encoder, accepted);
}

#[test]
fn any_tokenizer_is_refused_or_tokenizes() {
    let mut mutator = Mutator(4);
    let mut accepted = 0;
    let dir = TempDir::new().unwrap();
    let bytes = std::fs::read(data("bert").join("tokenizer.json")).unwrap();
    let texts = ["a b".to_owned(), String::new(), "é\0語".to_owned()];
    for _ in 0..1000 {
        let path = dir.path().join("tokenizer.json");
        std::fs::write(path, mutator.mutate(&bytes, bytes.len())).unwrap();
        let tokenizer = TextTokenizer::from_dir(dir.path());
        if let Some(tokenizer) = told_well(tokenizer, &mut accepted)
            && let Ok(ids) = tokenizer.content_ids(&texts, 5)
        {
            assert_eq!(ids.len(), texts.len());
            assert!(ids.iter().all(|ids| ids.len() <= 5));
        }
    }
    assert!(accepted > 50, "{accepted}");
}
