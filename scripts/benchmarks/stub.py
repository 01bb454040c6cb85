"""Writes a stub encoder: another model's tokenizer before a BERT of one layer, width 32
and random weights. What is measured with it is everything but the matrix products.
"""

import array
import json
import random
import shutil
import struct

WIDTH, INNER, HEADS, POSITIONS = 32, 64, 4, 64


def shapes(words):
    """Names in Hugging Face's scheme, shapes, and the spread of the random values."""
    yield "embeddings.word_embeddings.weight", (words, WIDTH), 1.0
    yield "embeddings.position_embeddings.weight", (POSITIONS, WIDTH), 0.02
    yield "embeddings.token_type_embeddings.weight", (2, WIDTH), 0.02
    layer = "encoder.layer.0"
    for norm in ("embeddings", f"{layer}.attention.output", f"{layer}.output"):
        for part in ("weight", "bias"):
            yield f"{norm}.LayerNorm.{part}", (WIDTH,), 0.0
    linear = {
        f"{layer}.attention.{name}": (WIDTH, WIDTH)
        for name in ("self.query", "self.key", "self.value", "output.dense")
    }
    linear |= {f"{layer}.intermediate.dense": (INNER, WIDTH), f"{layer}.output.dense": (WIDTH, INNER)}
    for name, shape in linear.items():
        yield f"{name}.weight", shape, 0.1
        yield f"{name}.bias", shape[:1], 0.0


def write(folder, tokenizer_of, seed=1):
    """Writes the folder, with the tokenizer of the model in `tokenizer_of`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(tokenizer_of / name, folder / name)
    theirs = json.loads((tokenizer_of / "config.json").read_text(encoding="utf-8"))
    config = {
        **{key: theirs[key] for key in ("vocab_size", "type_vocab_size", "pad_token_id", "layer_norm_eps")},
        "architectures": ["BertModel"], "model_type": "bert", "hidden_size": WIDTH, "num_hidden_layers": 1,
        "num_attention_heads": HEADS, "intermediate_size": INNER, "hidden_act": "gelu",
        "max_position_embeddings": POSITIONS,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokens = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokens["model_max_length"] = POSITIONS
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens), encoding="utf-8")
    weights(folder / "model.safetensors", config["vocab_size"], random.Random(seed))


def weights(path, words, numbers):
    """safetensors: the length of a JSON header, the header, the values."""
    header, data = {}, array.array("f")
    for name, shape, spread in shapes(words):
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        centre = 1.0 if name.endswith("LayerNorm.weight") else 0.0
        start = 4 * len(data)
        data.extend(centre + spread * numbers.uniform(-1, 1) for _ in range(count))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, 4 * len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data.tobytes())
