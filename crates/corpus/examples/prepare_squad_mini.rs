//! Prepares `data/squad-mini` with a white-space tokenizer and writes one file of every kind of table, for
//! `scripts/reference/check_arrow.py`: `cargo run -p quarry-corpus --example prepare_squad_mini -- OUT`.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use half::f16;
use quarry_corpus::{
    CandidateList, Embeddings, Format, NegativesBlock, PrepareOptions, Strictness, Tokenize,
    prepare,
};

/// One token a word: its length in bytes.
struct Words;

impl Tokenize for Words {
    fn content_ids(&self, texts: &[String], max_tokens: usize) -> Result<Vec<Vec<u32>>, String> {
        let ids = |text: &String| {
            text.split_whitespace()
                .take(max_tokens)
                .map(|word| word.len() as u32)
                .collect()
        };
        Ok(texts.iter().map(ids).collect())
    }

    fn digest(&self) -> String {
        "word lengths".into()
    }
}

fn main() {
    let out = std::env::args()
        .nth(1)
        .expect("usage: prepare_squad_mini OUT");
    let out = Path::new(&out);
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/squad-mini");
    let options = PrepareOptions {
        format: Format::Beir,
        shard_passages: 250,
        passage_prefix: String::new(),
        query_prefix: String::new(),
        passage_tokens: 128,
        query_tokens: 32,
        splits: Format::Beir.splits(&data).unwrap(),
        strictness: Strictness::default(),
    };
    let manifest = prepare(&data, out, &Words, &options, &mut |_| {}).unwrap();
    let list = CandidateList {
        query: 7,
        rows: vec![3, 1],
        scores: vec![0.5, 0.25],
        positives: vec![9],
        positive_scores: vec![0.75],
    };
    NegativesBlock::write(
        &out.join("block-00000.arrow"),
        &[list, CandidateList::default()],
    )
    .unwrap();
    let rows: Vec<f16> = (0..6)
        .map(|value| f16::from_f32(value as f32 / 4.0))
        .collect();
    Embeddings::write(&out.join("rows.safetensors"), &rows, 3, 250, "digest").unwrap();
    println!("{}", manifest.to_json());
}
