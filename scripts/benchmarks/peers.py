"""What Quarry is timed beside: one contender a call, one JSON object on standard output.

    python peers.py CONTENDER --threads N --model DIR [--texts FILE | --data DIR] [--device cuda]

Each does what its users do, with the settings its documentation gives; loading the
model is not timed, reading texts, tokenising and writing are. On a GPU sentence-transformers
encodes with the fastest of some batch sizes (which its documentation advises to look for),
trains without the waits of logging, and its data loader has processes of its own.
"""

import argparse
import gzip
import hashlib
import itertools
import json
import os
import resource
import time
from pathlib import Path

import floors


def passages_of(path):
    """Id, and title and text as Quarry joins them, of every line."""
    opened = gzip.open if str(path).endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield row["_id"], " ".join(part for part in (row.get("title"), row["text"]) if part)


def file_of(folder, name):
    """The JSON lines of a collection, plain or gzipped."""
    plain = folder / f"{name}.jsonl"
    return plain if plain.exists() else folder / f"{name}.jsonl.gz"


def texts_of(path):
    return (text for _, text in passages_of(path))


def sentence_transformer(args, dtype):
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(args.threads)
    kwargs = {"dtype": torch.bfloat16} if dtype == "bf16" else {}
    if args.attention:
        kwargs["attn_implementation"] = args.attention
    return SentenceTransformer(str(args.model), device=args.device, model_kwargs=kwargs)


def encode_sentence_transformers(args, dtype):
    import numpy

    model = sentence_transformer(args, dtype)
    model.encode(["warm up"] * 4)
    batch = 32 if args.device == "cpu" else fastest_batch(model, args.texts)
    start = time.perf_counter()
    texts = list(texts_of(args.texts))
    # As numpy's arrays the vectors are in main memory: a GPU has been waited for.
    vectors = model.encode(texts, batch_size=batch, convert_to_numpy=True)
    numpy.save(args.output, vectors.astype("float32"))
    return {"seconds": time.perf_counter() - start, "texts": len(texts), "batch": batch}


def fastest_batch(model, path):
    """Of some batch sizes the one that encodes the first texts of the file fastest."""
    texts = list(itertools.islice(texts_of(path), 8192))
    seconds = {}
    for batch in (64, 128, 256, 512, 1024):
        model.encode(texts[: 2 * batch], batch_size=batch)
        start = time.perf_counter()
        model.encode(texts, batch_size=batch, convert_to_numpy=True)
        seconds[batch] = time.perf_counter() - start
    return min(seconds, key=seconds.get)


def encode_onnxruntime(args):
    """The graph that torch exports, sorted by length in batches of 32, mean pooling."""
    import numpy
    import onnxruntime
    from tokenizers import Tokenizer

    weights = (args.model / "model.safetensors").read_bytes()
    graph = args.output.with_name(f"{hashlib.sha256(weights).hexdigest()[:12]}.onnx")
    if not graph.exists():
        export_onnx(args.model, graph)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    tokenizer.enable_truncation(floors.longest_of(args.model))
    tokenizer.enable_padding()
    warm = numpy.ones((4, 8), dtype="int64")
    session.run(None, {"input_ids": warm, "attention_mask": warm})
    start = time.perf_counter()
    texts = list(texts_of(args.texts))
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    vectors = None
    for first in range(0, len(order), 32):
        places = order[first : first + 32]
        batch = tokenizer.encode_batch([texts[i] for i in places])
        ids = numpy.array([e.ids for e in batch], dtype="int64")
        mask = numpy.array([e.attention_mask for e in batch], dtype="int64")
        (states,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
        sums = (states * mask[..., None].astype("float32")).sum(1)
        sums /= mask.sum(1, keepdims=True)
        sums /= numpy.linalg.norm(sums, axis=1, keepdims=True)
        if vectors is None:
            vectors = numpy.empty((len(texts), sums.shape[1]), dtype="float32")
        vectors[places] = sums
    numpy.save(args.output, vectors)
    return {"seconds": time.perf_counter() - start, "texts": len(texts)}


def export_onnx(model, graph):
    import torch
    from transformers import AutoModel

    class States(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = AutoModel.from_pretrained(model, attn_implementation="eager")

        def forward(self, input_ids, attention_mask):
            return self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]

    ids = torch.ones(2, 8, dtype=torch.long)
    axes = {0: "batch", 1: "length"}
    torch.onnx.export(
        States().eval(),
        (ids, ids),
        str(graph),
        input_names=["input_ids", "attention_mask"],
        output_names=["states"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes, "states": axes},
        opset_version=17,
        dynamo=False,
    )


def refresh(args, dtype):
    """Corpus and training questions to negatives: what ANCE's users write in Python."""
    import faiss

    faiss.omp_set_num_threads(args.threads)
    model = sentence_transformer(args, dtype)
    model.encode(["warm up"] * 4)
    start = time.perf_counter()
    names, passages = zip(*passages_of(file_of(args.data, "corpus")))
    positives = judgements(args.data, "train")
    ids, questions = questions_of(args.data, positives)
    encoding = time.perf_counter()
    corpus = model.encode(passages, batch_size=32)
    queries = model.encode(questions, batch_size=32)
    encoding = time.perf_counter() - encoding
    index = faiss.IndexFlatIP(corpus.shape[1])
    index.add(corpus.astype("float32"))
    _, found = index.search(queries.astype("float32"), 200)
    with open(args.output.with_suffix(".jsonl"), "w", encoding="utf-8") as out:
        for query, row in zip(ids, found):
            kept = [names[i] for i in row if names[i] not in positives[query]]
            out.write(json.dumps({"query": query, "negatives": kept}) + "\n")
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "encoding": encoding, "texts": len(passages) + len(questions)}


def judgements(data, split):
    positives = {}
    with open(data / "qrels" / f"{split}.tsv", encoding="utf-8") as lines:
        next(lines)
        for line in lines:
            query, passage, relevance = line.split("\t")
            if int(relevance) > 0:
                positives.setdefault(query, set()).add(passage)
    return positives


def questions_of(data, positives):
    ids, questions = [], []
    for name, text in passages_of(file_of(data, "queries")):
        if name in positives:
            ids.append(name)
            questions.append(text)
    return ids, questions


def train(args, dtype):
    """Steps of sentence-transformers' trainer with in-batch negatives."""
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
        losses,
    )
    from transformers import TrainerCallback

    # Quarry's recipes drop no attention probabilities, so that fused kernels may run: as here.
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(args.threads)
    if args.device != "cpu":
        # The processes of the data loader share the work; a pool of threads survives no fork.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    model = SentenceTransformer(
        str(args.model),
        device=args.device,
        config_kwargs={"attention_probs_dropout_prob": 0.0},
        model_kwargs={"attn_implementation": args.attention} if args.attention else {},
    )
    model.max_seq_length = args.length
    positives = judgements(args.data, "train")
    texts = dict(passages_of(file_of(args.data, "corpus")))
    ids, questions = questions_of(args.data, positives)
    rows = Dataset.from_dict(
        {"anchor": questions, "positive": [texts[min(positives[i])] for i in ids]}
    )

    class Clock(TrainerCallback):
        ends, losses = [], []

        def on_log(self, *_, logs, **__):
            if "loss" in logs:
                self.losses.append(float(logs["loss"]))

        def on_step_end(self, *_, **__):
            # A GPU is waited for where the timed steps begin and end, and nowhere between.
            if args.device != "cpu" and len(self.ends) + 1 in (args.warmup, args.steps):
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())

    settings = SentenceTransformerTrainingArguments(
        output_dir=str(args.output.with_suffix(".train")),
        max_steps=args.steps,
        per_device_train_batch_size=args.batch,
        learning_rate=3e-5,
        warmup_ratio=0.1,
        weight_decay=0.01,
        bf16=dtype == "bf16",
        report_to=[],
        save_strategy="no",
        logging_strategy="steps",
        disable_tqdm=True,
        seed=args.seed,
        **device_settings(args),
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=settings,
        train_dataset=rows,
        loss=losses.MultipleNegativesRankingLoss(model),
        callbacks=[Clock()],
    )
    trainer.train()
    model.save(str(args.output.with_suffix(".model")))
    # The first steps meet cold caches and compile kernels.
    timed = Clock.ends[args.warmup - 1 :]
    seconds, texts = timed[-1] - timed[0], args.batch * (len(timed) - 1)
    return {"seconds": seconds, "texts": texts, "losses": Clock.losses}


def device_settings(args):
    """What the trainer's users set for the device."""
    if args.device == "cpu":
        return {
            "use_cpu": True,
            "logging_steps": 1,
            "dataloader_num_workers": 0,
            "batch_sampler": "no_duplicates",
        }
    # A loss that is logged, or looked at for NaN, is waited for. The pairs that a GPU is
    # given are distinct, so nobody need look for duplicates.
    return {
        "logging_steps": args.steps,
        "logging_nan_inf_filter": False,
        "dataloader_num_workers": min(8, args.threads),
        "batch_sampler": "batch_sampler",
    }


def peak(args, dtype):
    """The fastest matrix product libtorch does on this machine, FLOP/s, with the weight as
    it is or laid out for oneDNN beforehand."""
    import torch

    torch.set_num_threads(args.threads)
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    if args.device != "cpu":
        return {"seconds": 1.0, "texts": 1, "flops": peak_on_gpu(kind)}
    mkldnn = torch.ops.mkldnn
    best = 0.0
    for rows, inner, columns in [(1024, 1536, 1536), (2048, 2048, 2048), (1024, 384, 1536)]:
        x, w = torch.randn(rows, inner).to(kind), torch.randn(columns, inner).to(kind)
        packed = mkldnn._reorder_linear_weight(w, rows)
        for product in (
            lambda: torch.nn.functional.linear(x, w),
            lambda: mkldnn._linear_pointwise(x, packed, None, "none", [], None),
        ):
            for _ in range(40):
                start = time.perf_counter()
                product()
                best = max(best, 2 * rows * inner * columns / (time.perf_counter() - start))
    return {"seconds": 1.0, "texts": 1, "flops": best}


def peak_on_gpu(kind):
    """The same on a GPU, by its own clock: ten products at a time, of values as a model has
    them (a card is faster on zeros)."""
    import torch

    best = 0.0
    for rows, inner, columns in [
        (8192, 8192, 8192), (16384, 4096, 4096), (65536, 768, 3072), (65536, 3072, 768),
    ]:  # fmt: skip
        x = torch.randn(rows, inner, device="cuda", dtype=kind)
        w = torch.randn(columns, inner, device="cuda", dtype=kind)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(10):
            begin.record()
            for _ in range(10):
                torch.nn.functional.linear(x, w)
            end.record()
            end.synchronize()
            seconds = begin.elapsed_time(end) / 1000 / 10
            best = max(best, 2 * rows * inner * columns / seconds)
    return best


def about():
    """The card, and the libtorch that comes with this Python's torch."""
    import torch

    return {
        "card": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "libraries": str(Path(torch.__file__).parent / "lib"),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contender")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--length", type=int, default=160)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32, help="pairs of a training step")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--attention", help="attn_implementation of transformers' models")
    args = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    name, _, dtype = args.contender.partition(":")
    run = {
        "encode-st": lambda: encode_sentence_transformers(args, dtype),
        "encode-ort": lambda: encode_onnxruntime(args),
        "refresh": lambda: refresh(args, dtype),
        "train": lambda: train(args, dtype),
        "peak": lambda: peak(args, dtype),
        "about": about,
    }[name]
    found = run()
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(found))


if __name__ == "__main__":
    main()
