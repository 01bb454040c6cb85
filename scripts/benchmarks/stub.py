"""Writes an encoder of any size with random weights, behind another model's tokenizer.

TINY has one layer of width 32: what is measured with it is everything but the matrix
products. BERT_BASE is bert-base-uncased with other weights, on which no speed depends,
as a sentence-transformers folder that takes the mean of 128 tokens.
"""

import array
import json
import math
import random
import shutil
import struct
from typing import NamedTuple


class Sizes(NamedTuple):
    layers: int
    width: int
    inner: int
    heads: int
    positions: int
    # Of the uniformly drawn weights of linear layers, to either side.
    spread: float
    # Of the modules that sentence-transformers wants; none without.
    longest: int | None


TINY = Sizes(1, 32, 64, 4, 64, 0.1, None)
# The spread gives the standard deviation of BERT's own first weights, .02.
BERT_BASE = Sizes(12, 768, 3072, 12, 512, 0.02 * math.sqrt(3), 128)


def shapes(sizes, words):
    """Names in Hugging Face's scheme, shapes, and the spread of the random values. Words
    outweigh positions, so that texts have vectors of their own."""
    width, inner = sizes.width, sizes.inner
    yield "embeddings.word_embeddings.weight", (words, width), 1.0
    yield "embeddings.position_embeddings.weight", (sizes.positions, width), 0.02
    yield "embeddings.token_type_embeddings.weight", (2, width), 0.02
    layers = [f"encoder.layer.{number}" for number in range(sizes.layers)]
    norms = [name for layer in layers for name in (f"{layer}.attention.output", f"{layer}.output")]
    for norm in ("embeddings", *norms):
        for part in ("weight", "bias"):
            yield f"{norm}.LayerNorm.{part}", (width,), 0.0
    for layer in layers:
        linear = {
            f"{layer}.attention.{name}": (width, width)
            for name in ("self.query", "self.key", "self.value", "output.dense")
        }
        linear |= {
            f"{layer}.intermediate.dense": (inner, width),
            f"{layer}.output.dense": (width, inner),
        }
        for name, shape in linear.items():
            yield f"{name}.weight", shape, sizes.spread
            yield f"{name}.bias", shape[:1], 0.0


def write(folder, tokenizer_of, sizes=TINY, seed=1):
    """Writes the folder, with the tokenizer of the model in `tokenizer_of`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(tokenizer_of / name, folder / name)
    theirs = json.loads((tokenizer_of / "config.json").read_text(encoding="utf-8"))
    config = {
        **{key: theirs[key] for key in ("vocab_size", "type_vocab_size", "pad_token_id", "layer_norm_eps")},
        "architectures": ["BertModel"], "model_type": "bert", "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers, "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.inner, "hidden_act": "gelu", "max_position_embeddings": sizes.positions,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokens = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokens["model_max_length"] = sizes.positions
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens), encoding="utf-8")
    if sizes.longest:
        modules(folder, sizes)
    tensors = list(shapes(sizes, config["vocab_size"]))
    weights(folder / "model.safetensors", tensors, draw_one_by_one(seed) if sizes == TINY else draw_at_once(seed))


def modules(folder, sizes):
    """What sentence-transformers reads besides: mean pooling, unit length, where texts end."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    listed = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (path, kind) in enumerate(kinds.items())
    ]
    pooling = {"word_embedding_dimension": sizes.width, "pooling_mode_mean_tokens": True}
    texts = {
        "modules.json": listed,
        "1_Pooling/config.json": pooling,
        "sentence_bert_config.json": {"max_seq_length": sizes.longest, "do_lower_case": False},
    }
    for path, text in texts.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(json.dumps(text), encoding="utf-8")


def draw_one_by_one(seed):
    """Bytes of f32 values; needs no package, and half a minute for a hundred million."""
    numbers = random.Random(seed)

    def drawn(count, centre, spread):
        values = (centre + spread * numbers.uniform(-1, 1) for _ in range(count))
        return array.array("f", values).tobytes()

    return drawn


def draw_at_once(seed):
    """The same by numpy."""
    import numpy

    numbers = numpy.random.default_rng(seed)

    def drawn(count, centre, spread):
        values = numbers.random(count, dtype="float32")
        values *= 2 * spread
        values += centre - spread
        return values.tobytes()

    return drawn


def weights(path, tensors, drawn):
    """safetensors: the length of a JSON header, the header, the values."""
    header, end = {}, 0
    for name, shape, _ in tensors:
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, shape, spread in tensors:
            centre = 1.0 if name.endswith("LayerNorm.weight") else 0.0
            out.write(drawn(math.prod(shape), centre, spread))
