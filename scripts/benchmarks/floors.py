"""Arithmetic that an encoder of the BERT family cannot avoid."""

import json
from pathlib import Path


def flops(model, lengths):
    """Multiply-adds counted as two, of one forward pass over sequences of `lengths`
    tokens without padding: linear layers, scores and weighted sums of attention."""
    config = json.loads((Path(model) / "config.json").read_text())
    width, inner = config["hidden_size"], config["intermediate_size"]
    layers = config["num_hidden_layers"]
    per_token = 2 * (4 * width * width + 2 * width * inner)
    per_pair = 4 * width
    return layers * sum(n * per_token + n * n * per_pair for n in lengths)


def lengths_of(model, texts, longest):
    """Tokens of each text, specials included, cut at `longest`."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest)
    lengths = []
    # An encoding takes some kilobytes: not of all texts at once.
    for first in range(0, len(texts), 10_000):
        lengths += [len(e.ids) for e in tokenizer.encode_batch(texts[first : first + 10_000])]
    return lengths


def longest_of(model):
    """Tokens that sentence-transformers cuts a text at."""
    path = Path(model) / "sentence_bert_config.json"
    return json.loads(path.read_text())["max_seq_length"] if path.exists() else 512
