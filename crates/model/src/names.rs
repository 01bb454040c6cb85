//! Tensor names: BERT's Hugging Face names inside, the family's own in files.

use crate::config::{Config, Family};

/// DistilBERT's name for each of BERT's module paths inside a layer.
const DISTIL_LAYER: [(&str, &str); 8] = [
    ("attention.self.query", "attention.q_lin"),
    ("attention.self.key", "attention.k_lin"),
    ("attention.self.value", "attention.v_lin"),
    ("attention.output.dense", "attention.out_lin"),
    ("attention.output.LayerNorm", "sa_layer_norm"),
    ("intermediate.dense", "ffn.lin1"),
    ("output.dense", "ffn.lin2"),
    ("output.LayerNorm", "output_layer_norm"),
];

/// Every tensor the forward pass needs: canonical name and shape, in the order
/// of the computation.
pub(crate) fn expected(config: &Config) -> Vec<(String, Vec<i64>)> {
    let (h, inner) = (config.hidden_size, config.intermediate_size);
    let mut all = vec![
        (
            "embeddings.word_embeddings.weight".to_owned(),
            vec![config.vocab_size, h],
        ),
        (
            "embeddings.position_embeddings.weight".to_owned(),
            vec![config.position_rows, h],
        ),
    ];
    if config.type_rows > 0 {
        all.push((
            "embeddings.token_type_embeddings.weight".to_owned(),
            vec![config.type_rows, h],
        ));
    }
    let mut module = |path: String, weight: Vec<i64>, bias: i64| {
        all.push((format!("{path}.weight"), weight));
        all.push((format!("{path}.bias"), vec![bias]));
    };
    module("embeddings.LayerNorm".to_owned(), vec![h], h);
    for layer in 0..config.layers {
        let path = |part: &str| format!("encoder.layer.{layer}.{part}");
        for part in ["query", "key", "value"] {
            module(path(&format!("attention.self.{part}")), vec![h, h], h);
        }
        module(path("attention.output.dense"), vec![h, h], h);
        module(path("attention.output.LayerNorm"), vec![h], h);
        module(path("intermediate.dense"), vec![inner, h], inner);
        module(path("output.dense"), vec![h, inner], h);
        module(path("output.LayerNorm"), vec![h], h);
    }
    all
}

/// The family's own name of a canonical tensor.
pub(crate) fn in_family(family: Family, canonical: &str) -> String {
    if family != Family::DistilBert {
        return canonical.to_owned();
    }
    let Some(rest) = canonical.strip_prefix("encoder.layer.") else {
        return canonical.to_owned();
    };
    let Some((index, path)) = rest.split_once('.') else {
        return canonical.to_owned();
    };
    for (bert, distil) in DISTIL_LAYER {
        if let Some(leaf) = path.strip_prefix(bert) {
            return format!("transformer.layer.{index}.{distil}{leaf}");
        }
    }
    canonical.to_owned()
}

/// The family's own name of a tensor in a file: without the prefix a task
/// model puts before the encoder, and with `weight`/`bias` for the `gamma`/`beta` of old files.
pub(crate) fn normalised(family: Family, name: &str) -> String {
    let prefix = match family {
        Family::Bert => "bert.",
        Family::Roberta => "roberta.",
        Family::DistilBert => "distilbert.",
    };
    let name = name.strip_prefix(prefix).unwrap_or(name);
    if let Some(path) = name.strip_suffix("LayerNorm.gamma") {
        return format!("{path}LayerNorm.weight");
    }
    if let Some(path) = name.strip_suffix("LayerNorm.beta") {
        return format!("{path}LayerNorm.bias");
    }
    name.to_owned()
}

/// The layer, from 0, that a tensor of the family's own name belongs to.
pub(crate) fn layer(family: Family, name: &str) -> Option<u64> {
    let layers = match family {
        Family::Bert | Family::Roberta => "encoder.layer.",
        Family::DistilBert => "transformer.layer.",
    };
    let (number, _) = name.strip_prefix(layers)?.split_once('.')?;
    number.parse().ok()
}

/// Whether a tensor beyond the expected ones is a known buffer or a head of the
/// pre-training task, and can be left behind in silence.
pub(crate) fn ignorable(name: &str) -> bool {
    const HEADS: [&str; 7] = [
        "cls.",
        "lm_head.",
        "vocab_transform.",
        "vocab_layer_norm.",
        "vocab_projector.",
        "embeddings.position_ids",
        "embeddings.token_type_ids",
    ];
    HEADS.iter().any(|head| name.starts_with(head))
}

/// Whether a tensor is kept, unused, so that it is written back.
pub(crate) fn carried(name: &str) -> bool {
    name.starts_with("pooler.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distilbert_names_of_a_layer() {
        let name = |canonical: &str| in_family(Family::DistilBert, canonical);
        assert_eq!(
            name("encoder.layer.3.attention.output.LayerNorm.bias"),
            "transformer.layer.3.sa_layer_norm.bias"
        );
        assert_eq!(
            name("encoder.layer.0.output.dense.weight"),
            "transformer.layer.0.ffn.lin2.weight"
        );
        assert_eq!(
            name("embeddings.LayerNorm.weight"),
            "embeddings.LayerNorm.weight"
        );
    }

    #[test]
    fn the_layer_of_a_tensor_is_the_number_in_its_name() {
        for (family, name, number) in [
            (Family::Bert, "encoder.layer.12.output.dense.bias", Some(12)),
            (Family::Roberta, "pooler.dense.bias", None),
            (
                Family::DistilBert,
                "transformer.layer.0.ffn.lin1.bias",
                Some(0),
            ),
            (Family::DistilBert, "encoder.layer.0.ffn.lin1.bias", None),
            (Family::Bert, "encoder.layer.norm.bias", None),
        ] {
            assert_eq!(layer(family, name), number, "{name}");
        }
    }

    #[test]
    fn old_names_and_prefixes_are_normalised() {
        assert_eq!(
            normalised(Family::Bert, "bert.embeddings.LayerNorm.gamma"),
            "embeddings.LayerNorm.weight"
        );
        assert_eq!(
            normalised(
                Family::Roberta,
                "roberta.encoder.layer.0.output.LayerNorm.beta"
            ),
            "encoder.layer.0.output.LayerNorm.bias"
        );
    }
}
