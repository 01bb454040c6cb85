//! A BERT of two layers with random weights and a vocabulary of whole words: a
//! real encoder, as small as one can be.

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const WIDTH: usize = 32;
const INNER: usize = 64;
const LAYERS: usize = 2;
/// Longest sequence, specials included.
const LENGTH: usize = 64;
const SPECIALS: [&str; 4] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"];

/// Sizes of the random values.
struct Spread {
    /// Of position and token-type embeddings; words have 1.
    place: f32,
    linear: f32,
    bias: f32,
    /// Of a normalisation's weight around 1, and of its bias around 0.
    norm: f32,
}

/// The words decide: because like words get like vectors, the model retrieves far
/// better than chance before any training.
const TOPICAL: Spread = Spread {
    place: 0.02,
    linear: 0.1,
    bias: 0.0,
    norm: 0.0,
};

/// Order and context decide as much as the words, and no parameter is trivial.
const ENTANGLED: Spread = Spread {
    place: 0.3,
    linear: 0.5,
    bias: 0.1,
    norm: 0.3,
};

/// Writes a sentence-transformers folder (mean pooling, normalised) whose
/// vocabulary is the words of `texts`. The model retrieves far better than chance.
///
/// # Panics
/// If the disk fails.
pub fn write_model(dir: &Path, texts: &[String]) {
    let words: BTreeSet<String> = texts
        .iter()
        .flat_map(|text| text.split(|c: char| !c.is_alphanumeric()))
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    write_bert(dir, words, &TOPICAL, 7);
    write_modules(dir);
}

/// Writes a plain Hugging Face folder (neither pooling nor normalisation) whose
/// vocabulary is `words`. Other seeds give other weights; the scores mean nothing,
/// but differ a lot, so a wrong one is seen.
///
/// # Panics
/// If the disk fails.
pub fn write_plain_model(dir: &Path, words: impl IntoIterator<Item = String>, seed: u64) {
    write_bert(dir, words, &ENTANGLED, seed);
}

fn write_bert(dir: &Path, words: impl IntoIterator<Item = String>, spread: &Spread, seed: u64) {
    let vocabulary: Vec<String> = SPECIALS
        .iter()
        .map(|s| (*s).to_owned())
        .chain(words)
        .collect();
    std::fs::create_dir_all(dir).unwrap();
    write(dir, "config.json", &config(vocabulary.len()));
    write(dir, "tokenizer.json", &tokenizer(&vocabulary));
    let tensors = tensors(vocabulary.len(), spread);
    write_weights(&dir.join("model.safetensors"), tensors, SplitMix(seed));
}

/// What makes of the folder a sentence-transformers one.
fn write_modules(dir: &Path) {
    std::fs::create_dir_all(dir.join("1_Pooling")).unwrap();
    write(
        dir,
        "tokenizer_config.json",
        &json!({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": LENGTH, "pad_token": "[PAD]",
            "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}),
    );
    let module = |index: u32, path: &str, class: &str| {
        json!({"idx": index, "name": index.to_string(), "path": path,
            "type": format!("sentence_transformers.models.{class}")})
    };
    let modules = [
        module(0, "", "Transformer"),
        module(1, "1_Pooling", "Pooling"),
        module(2, "2_Normalize", "Normalize"),
    ];
    write(dir, "modules.json", &json!(modules));
    write(
        dir,
        "sentence_bert_config.json",
        &json!({"max_seq_length": LENGTH, "do_lower_case": false}),
    );
    write(
        dir,
        "1_Pooling/config.json",
        &json!({"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": true}),
    );
}

fn write(dir: &Path, name: &str, value: &Value) {
    std::fs::write(dir.join(name), value.to_string()).unwrap();
}

fn config(vocabulary: usize) -> Value {
    json!({
        "architectures": ["BertModel"], "model_type": "bert", "vocab_size": vocabulary, "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": INNER, "hidden_act": "gelu",
        "layer_norm_eps": 1e-12, "max_position_embeddings": LENGTH, "type_vocab_size": 2, "pad_token_id": 0,
    })
}

fn tokenizer(vocabulary: &[String]) -> Value {
    let ids: serde_json::Map<_, _> = vocabulary
        .iter()
        .enumerate()
        .map(|(id, word)| (word.clone(), json!(id)))
        .collect();
    let added = |(id, content): (usize, &&str)| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": SPECIALS.iter().enumerate().map(added).collect::<Vec<_>>(),
        "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "BertProcessing", "cls": ["[CLS]", 2], "sep": ["[SEP]", 3]},
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": "[UNK]"},
    })
}

/// Names and shapes in Hugging Face's scheme; the last number is the size of
/// the random values.
fn tensors(vocabulary: usize, spread: &Spread) -> Vec<(String, Vec<usize>, f32)> {
    let mut all = vec![
        (
            "embeddings.word_embeddings.weight".to_owned(),
            vec![vocabulary, WIDTH],
            1.0,
        ),
        (
            "embeddings.position_embeddings.weight".to_owned(),
            vec![LENGTH, WIDTH],
            spread.place,
        ),
        (
            "embeddings.token_type_embeddings.weight".to_owned(),
            vec![2, WIDTH],
            spread.place,
        ),
    ];
    let norm = |all: &mut Vec<_>, path: String| {
        all.push((format!("{path}.weight"), vec![WIDTH], spread.norm));
        all.push((format!("{path}.bias"), vec![WIDTH], spread.norm));
    };
    let linear = |all: &mut Vec<_>, path: String, out: usize, inner: usize| {
        all.push((format!("{path}.weight"), vec![out, inner], spread.linear));
        all.push((format!("{path}.bias"), vec![out], spread.bias));
    };
    norm(&mut all, "embeddings.LayerNorm".to_owned());
    for layer in 0..LAYERS {
        let path = |part: &str| format!("encoder.layer.{layer}.{part}");
        for part in ["self.query", "self.key", "self.value", "output.dense"] {
            linear(&mut all, path(&format!("attention.{part}")), WIDTH, WIDTH);
        }
        norm(&mut all, path("attention.output.LayerNorm"));
        linear(&mut all, path("intermediate.dense"), INNER, WIDTH);
        linear(&mut all, path("output.dense"), WIDTH, INNER);
        norm(&mut all, path("output.LayerNorm"));
    }
    all
}

fn write_weights(path: &Path, tensors: Vec<(String, Vec<usize>, f32)>, mut random: SplitMix) {
    let values: Vec<(String, Vec<usize>, Vec<f32>)> = tensors
        .into_iter()
        .map(|(name, shape, scale)| {
            let centre = if name.ends_with("LayerNorm.weight") {
                1.0
            } else {
                0.0
            };
            let count = shape.iter().product();
            let values = (0..count)
                .map(|_| centre + scale * random.symmetric())
                .collect();
            (name, shape, values)
        })
        .collect();
    let views: BTreeMap<&str, TensorView> = values
        .iter()
        .map(|(name, shape, values)| {
            let bytes = bytemuck::cast_slice(values);
            (
                name.as_str(),
                TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap(),
            )
        })
        .collect();
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// Steele, Lea & Flood 2014: enough for weights that only have to be the same
/// everywhere.
struct SplitMix(u64);

impl SplitMix {
    /// Uniform in [-1, 1).
    fn symmetric(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }
}
