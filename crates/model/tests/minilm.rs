//! all-MiniLM-L6-v2 against sentence-transformers' embeddings of 20 awkward texts.
#![allow(clippy::unwrap_used)]

mod support;

use quarry_corpus::Tokenize;
use quarry_model::{CPU_TOKEN_BUDGET, DualEncoder, LoadOptions, Precision, TextTokenizer};
use support::{data, flat, json, max_difference, min_cosine};
use tch::Tensor;

struct Golden {
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    embeddings: Vec<f32>,
}

fn golden() -> Golden {
    let rows = json(&data("minilm.json"));
    let tensors = Tensor::read_safetensors(data("minilm.safetensors")).unwrap();
    Golden {
        texts: serde_json::from_value(rows["texts"].clone()).unwrap(),
        ids: serde_json::from_value(rows["ids"].clone()).unwrap(),
        embeddings: flat(&tensors[0].1),
    }
}

#[test]
fn tokens_and_vectors_equal_sentence_transformers() {
    let Some(dir) = support::minilm() else { return };
    let golden = golden();
    let tokenizer = TextTokenizer::from_dir(&dir).unwrap();
    let ids = tokenizer.content_ids(&golden.texts, usize::MAX).unwrap();
    assert_eq!(ids, golden.ids);
    assert_eq!(ids[0], Vec::<u32>::new());
    assert!(
        ids[19].len() > 600,
        "the last text is longer than the model reads"
    );
    for (precision, cosine, difference) in [
        (Precision::F32, 0.999_999, 1e-5),
        (Precision::Bf16, 0.9995, 0.02),
    ] {
        let options = LoadOptions {
            precision,
            ..LoadOptions::default()
        };
        let model = DualEncoder::load(&dir, &options).unwrap();
        assert_eq!((model.dim(), model.max_length()), (384, 256));
        let contents: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let specials = tokenizer.specials();
        let found = model
            .passage()
            .encode(
                &contents,
                specials,
                model.max_length(),
                CPU_TOKEN_BUDGET,
                &mut |_| {},
            )
            .unwrap();
        let worst = max_difference(&found, &golden.embeddings);
        assert!(worst <= difference, "{precision:?}: {worst}");
        let lowest = min_cosine(&found, &golden.embeddings, 384);
        assert!(lowest >= cosine, "{precision:?}: {lowest}");
    }
}

#[test]
fn content_is_cut_from_the_end() {
    let Some(dir) = support::minilm() else { return };
    let tokenizer = TextTokenizer::from_dir(&dir).unwrap();
    let golden = golden();
    let ids = tokenizer.content_ids(&golden.texts[19..], 254).unwrap();
    assert_eq!(ids[0], golden.ids[19][..254]);
    assert_eq!(
        (tokenizer.specials().first, tokenizer.specials().last),
        (101, 102)
    );
    assert_eq!(tokenizer.digest().len(), 64);
}
