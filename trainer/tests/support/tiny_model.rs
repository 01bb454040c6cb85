//! A two-layer BERT of width 16 with random weights.

use serde_json::json;
use std::path::Path;
use tch::{Device, Kind, Tensor};

pub const WORDS: usize = 40;

/// Writes a model folder; `damage` may change its tensors.
pub fn write_model(dir: &Path, damage: impl Fn(&mut Vec<(String, Tensor)>)) {
    std::fs::create_dir_all(dir).unwrap();
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map(str::to_owned);
    let vocabulary: Vec<String> = special
        .into_iter()
        .chain((0..WORDS).map(|w| format!("word{w}")))
        .collect();
    let config = json!({
        "model_type": "bert", "vocab_size": vocabulary.len(), "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 32, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
        "max_position_embeddings": 32, "type_vocab_size": 2, "pad_token_id": 0,
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    std::fs::write(
        dir.join("tokenizer.json"),
        tokenizer(&vocabulary).to_string(),
    )
    .unwrap();
    tch::manual_seed(7);
    let mut weights = weights(vocabulary.len() as i64);
    damage(&mut weights);
    Tensor::write_safetensors(&weights, dir.join("model.safetensors")).unwrap();
}

fn tokenizer(vocabulary: &[String]) -> serde_json::Value {
    let vocab: serde_json::Map<_, _> = vocabulary
        .iter()
        .enumerate()
        .map(|(id, word)| (word.clone(), json!(id)))
        .collect();
    let token = |id: usize| {
        json!({"id": id, "content": vocabulary[id], "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true})
    };
    let special = |id: &str, number: u32| json!({"id": id, "ids": [number], "tokens": [id]});
    let frame = |name: &str| json!({"SpecialToken": {"id": name, "type_id": 0}});
    let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": (0..4).map(token).collect::<Vec<_>>(),
        "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [frame("[CLS]"), text("A"), frame("[SEP]")],
            "pair": [frame("[CLS]"), text("A"), frame("[SEP]"), text("B"), frame("[SEP]")],
            "special_tokens": {"[CLS]": special("[CLS]", 2), "[SEP]": special("[SEP]", 3)}},
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"},
    })
}

fn weights(vocabulary: i64) -> Vec<(String, Tensor)> {
    let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.4;
    let mut all = vec![
        (
            "embeddings.word_embeddings.weight".to_owned(),
            random(&[vocabulary, 16]),
        ),
        (
            "embeddings.position_embeddings.weight".to_owned(),
            random(&[32, 16]) * 0.2,
        ),
        (
            "embeddings.token_type_embeddings.weight".to_owned(),
            random(&[2, 16]),
        ),
    ];
    let mut module = |path: String, shape: &[i64]| {
        let norm = path.ends_with("LayerNorm");
        let weight = if norm {
            random(shape) + 1.0
        } else {
            random(shape)
        };
        all.push((format!("{path}.weight"), weight));
        all.push((format!("{path}.bias"), random(&shape[..1]) * 0.1));
    };
    module("embeddings.LayerNorm".to_owned(), &[16]);
    for layer in 0..2 {
        let path = |part: &str| format!("encoder.layer.{layer}.{part}");
        for part in [
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
        ] {
            module(path(part), &[16, 16]);
        }
        module(path("attention.output.LayerNorm"), &[16]);
        module(path("intermediate.dense"), &[32, 16]);
        module(path("output.dense"), &[16, 32]);
        module(path("output.LayerNorm"), &[16]);
    }
    all
}
