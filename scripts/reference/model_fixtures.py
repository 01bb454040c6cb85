"""Reference values for crates/model: tiny random encoders, MiniLM embeddings, losses.

Needs torch, transformers and sentence-transformers (made with 2.11.0, 5.23.0 and 6.2.0):

    python scripts/reference/model_fixtures.py MINILM_DIR OUT_DIR

OUT_DIR is crates/model/tests/data. Runs on one CPU thread; the same versions give the same files.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig, BertModel, DistilBertConfig, DistilBertModel, RobertaConfig, RobertaModel, XLMRobertaConfig,
    XLMRobertaModel,
)

torch.set_num_threads(1)
WIDTH, VOCAB = 32, 97
COMMON = dict(vocab_size=VOCAB, max_position_embeddings=40)
SIZES = dict(hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, **COMMON)
ENCODERS = {
    "bert": (BertModel, BertConfig(**SIZES, pad_token_id=0), (2, 3, 0)),
    "bert-tanh": (BertModel, BertConfig(**SIZES, pad_token_id=0, hidden_act="gelu_new"), (2, 3, 0)),
    "roberta": (RobertaModel, RobertaConfig(**SIZES, pad_token_id=1, type_vocab_size=1, layer_norm_eps=1e-5), (0, 2, 1)),
    "xlm-roberta": (
        XLMRobertaModel, XLMRobertaConfig(**SIZES, pad_token_id=1, type_vocab_size=1, layer_norm_eps=1e-5), (0, 2, 1)),
    "distilbert": (
        DistilBertModel,
        DistilBertConfig(dim=WIDTH, n_layers=2, n_heads=4, hidden_dim=64, pad_token_id=0, **COMMON), (2, 3, 0)),
}
# Content ids; an empty text, equal lengths, one full length, and pad ids (0 and 1) inside a text.
LENGTHS = [7, 0, 36, 3, 7, 1, 12]


def contents():
    rng = torch.Generator().manual_seed(5)
    rows = [torch.randint(5, VOCAB, (n,), generator=rng).tolist() for n in LENGTHS]
    rows[6][4] = 1
    rows[6][9] = 0
    return rows


def randomise(model, seed):
    """Weights far from their initial zeros and ones, so that a swapped or unused tensor shows."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=rng)
            is_scale = "norm" in name.lower() and name.endswith("weight")
            parameter.copy_(1 + 0.2 * noise if is_scale else 0.15 * noise)


def tokenizer(first, last, pad):
    """A word-level tokenizer: w5 … w96, lower-cased, with the family's special ids."""
    names = {first: "[CLS]", last: "[SEP]", pad: "[PAD]", 4: "[UNK]"}
    vocab = {names.get(i, f"w{i}"): i for i in range(VOCAB)}
    built = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    built.normalizer = normalizers.Lowercase()
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    built.post_processor = processors.BertProcessing(("[SEP]", last), ("[CLS]", first))
    return built


def tiny(out):
    for seed, (name, (kind, config, (first, last, pad))) in enumerate(ENCODERS.items()):
        model = kind(config).eval()
        randomise(model, seed)
        folder = out / name
        model.save_pretrained(folder)
        tokenizer(first, last, pad).save(str(folder / "tokenizer.json"))
        classes = {"tokenizer_class": "PreTrainedTokenizerFast", "cls_token": "[CLS]", "sep_token": "[SEP]",
                   "pad_token": "[PAD]", "unk_token": "[UNK]", "model_max_length": 38}
        (folder / "tokenizer_config.json").write_text(json.dumps(classes) + "\n")
        cls, mean, losses = [], [], {"cls": 0.0, "mean": 0.0}
        for row, ids in enumerate(contents()):
            ids = torch.tensor([[first, *ids, last]])
            states = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
            cls.append(states[0].tolist())
            mean.append(states.mean(0).tolist())
            weights = torch.arange(WIDTH, dtype=torch.float32).sub(WIDTH / 2) * (row + 1) / 100
            for pooling, vector in (("cls", states[0]), ("mean", states.mean(0))):
                losses[pooling] = losses[pooling] + (vector ** 2 * weights).sum()
        expected = {"specials": [first, last], "contents": contents(), "cls": cls, "mean": mean,
                    "loss": {pooling: loss.item() for pooling, loss in losses.items()},
                    "gradient_norms": {pooling: norms(model, loss) for pooling, loss in losses.items()}}
        (folder / "expected.json").write_text(json.dumps(expected) + "\n")


def norms(model, loss):
    """Of the gradient of each parameter that `loss` reaches."""
    model.zero_grad()
    loss.backward(retain_graph=True)
    return {n: p.grad.norm().item() for n, p in model.named_parameters() if p.grad is not None}


TEXTS = [
    "", " ", "a", "What is dense retrieval?", "dense retrieval", "Dense  Retrieval!!",
    "The quick brown fox jumps over the lazy dog.",
    "Hard negatives are mined from the index of the current checkpoint while training goes on.",
    "東京は日本の首都です。", "稠密檢索是什麼？", "자연어 처리", "Größe, naïve café, coöperate", "Привет, мир",
    "مرحبا بالعالم", "emoji 😀👩‍👩‍👧 and symbols ½ ™ ∑", "tab\tnew\nline\r\nreturn", "[CLS] in [SEP] the [MASK] text",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis", "3.14159 2,718 1e-5 0x7f",
    " ".join(f"word{i} number {i * 7919 % 1009}" for i in range(200)),
]


def minilm(folder, out):
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer as Fast
    model = SentenceTransformer(str(folder), device="cpu")
    # One text at a time: no padding anywhere.
    embeddings = torch.stack([model.encode([text], convert_to_tensor=True)[0] for text in TEXTS])
    fast = Fast.from_file(str(folder / "tokenizer.json"))
    fast.no_padding()
    fast.no_truncation()
    ids = [fast.encode(text, add_special_tokens=False).ids for text in TEXTS]
    (out / "minilm.json").write_text(json.dumps({"texts": TEXTS, "ids": ids}, ensure_ascii=False) + "\n")
    save_file({"embeddings": embeddings.float().contiguous()}, out / "minilm.safetensors")


def losses(out):
    """MultipleNegativesRankingLoss on [B, D] columns (block layout) turned query-major."""
    import torch.nn.functional as F
    from sentence_transformers import losses as st
    from sentence_transformers import util
    rng = torch.Generator().manual_seed(11)
    batch, width, negatives = 6, 16, 2
    columns = [torch.randn(batch, width, generator=rng, requires_grad=True) for _ in range(2 + negatives)]

    class Columns(torch.nn.Module):
        def forward(self, features):
            return {"sentence_embedding": features["embedding"]}

    cases = {}
    for name, scale, similarity in [("cosine", 20.0, util.cos_sim), ("dot", 1.0, util.dot_score)]:
        for column in columns:
            column.grad = None
        loss = st.MultipleNegativesRankingLoss(Columns(), scale=scale, similarity_fct=similarity)
        value = loss([{"embedding": column} for column in columns], torch.empty(0))
        value.backward()
        cases[name] = {"temperature": 1 / scale, "loss": value.item(), "query_gradient": columns[0].grad.tolist(),
                       "passage_gradient": torch.stack([c.grad for c in columns[1:]], 1).flatten(0, 1).tolist()}
    for column in columns:
        column.grad = None
    q, p, hard = columns[0], columns[1], torch.stack(columns[2:], 1)
    # Two-way softmax over (positive, negative) for each own negative.
    pairs = torch.stack([(q * p).sum(1, keepdim=True).expand(-1, negatives), (hard @ q.unsqueeze(2)).squeeze(2)], 2)
    value = F.cross_entropy(pairs.flatten(0, 1), torch.zeros(batch * negatives, dtype=torch.long))
    value.backward()
    cases["pairwise"] = {"temperature": 1.0, "loss": value.item(), "query_gradient": columns[0].grad.tolist(),
                         "passage_gradient": torch.stack([c.grad for c in columns[1:]], 1).flatten(0, 1).tolist()}
    passages = torch.stack([c.detach() for c in columns[1:]], 1).flatten(0, 1)
    (out / "losses.json").write_text(json.dumps({
        "queries": columns[0].tolist(), "passages": passages.tolist(), "negatives": negatives, "cases": cases}) + "\n")


if __name__ == "__main__":
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    tiny(target)
    minilm(source, target)
    losses(target)
