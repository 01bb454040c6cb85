"""Reads a finished run with the field's own packages; called by scripts/interop.

    python interop.py STORE MODEL TEXTS.jsonl EMBEDDINGS.safetensors

One line a check; exits with 1 if any of them failed.
"""
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytrec_eval
import torch
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

EMBEDDING_TOLERANCE = 1e-5
METRIC_TOLERANCE = 1e-6

failures = 0


def check(passed, line):
    global failures
    failures += not passed
    print(f"{'ok  ' if passed else 'FAIL'}  {line}", flush=True)


def compare(name, ours, theirs):
    same = ours.shape == theirs.shape
    difference = float(np.abs(ours - theirs).max()) if same else float("nan")
    check(
        same and difference <= EMBEDDING_TOLERANCE,
        f"{name}: {theirs.shape[0]} x {theirs.shape[1]}, largest difference {difference:.2e}",
    )


def check_model(folder, texts, ours):
    model = SentenceTransformer(str(folder), device="cpu")
    compare("sentence-transformers", ours, model.encode(texts, convert_to_numpy=True, batch_size=16))

    # The same by hand: transformers' model, mean over real tokens, unit length.
    settings = json.loads((folder / "sentence_bert_config.json").read_text())
    pooling = json.loads((folder / "1_Pooling/config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = AutoModel.from_pretrained(folder).eval()
    rows = []
    with torch.no_grad():
        for start in range(0, len(texts), 16):
            batch = tokenizer(
                texts[start : start + 16],
                padding=True,
                truncation=True,
                max_length=settings["max_seq_length"],
                return_tensors="pt",
            )
            states = encoder(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1).float()
            pooled = states[:, 0] if pooling.get("pooling_mode_cls_token") else (states * mask).sum(1) / mask.sum(1)
            rows.append(pooled)
    rows = torch.cat(rows)
    if any(module["type"].endswith("Normalize") for module in json.loads((folder / "modules.json").read_text())):
        rows = torch.nn.functional.normalize(rows, dim=1)
    compare("transformers", ours, rows.numpy())


def open_table(path):
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
        table.validate(full=True)
        return table


def check_table(store, path, rows=None):
    name = path.relative_to(store)
    try:
        table = open_table(path)
    except Exception as error:  # Whatever pyarrow objects to is the finding.
        check(False, f"pyarrow: {name}: {error}")
        return None
    columns = ", ".join(f"{field.name} {field.type}" for field in table.schema)
    shown = name if len(str(name)) < 60 else f"…{str(name)[-58:]}"
    check(rows is None or table.num_rows == rows, f"pyarrow: {shown}: {table.num_rows} rows; {columns}")
    return table


def read_corpus(store, location):
    """Passage ids by row and queries by split, from the Arrow tables alone."""
    manifest = location["manifest"]
    folder = store / location["folder"]
    passages = []
    for shard in manifest["shards"]:
        table = check_table(store, folder / shard["file"], shard["passages"])
        passages += table.column("id").to_pylist()
    queries = {}
    for split, entry in manifest["queries"].items():
        queries[split] = check_table(store, folder / entry["file"], entry["queries"])
    return passages, queries


def qrels_of(table, passages):
    return {
        query: {passages[row]: grade for row, grade in zip(rows, grades)}
        for query, rows, grades in zip(*(table.column(c).to_pylist() for c in ("id", "judged", "grades")))
    }


def check_run(store, generation, split, path, qrels):
    with open(store / path) as lines:
        run = pytrec_eval.parse_run(lines)
    scored = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank", "ndcg_cut_10", "recall_100"}).evaluate(run)

    def mean(measure):
        # trec_eval -c: a query that the run leaves out counts as 0.
        return sum(scored.get(query, {}).get(measure, 0.0) for query in qrels) / len(qrels)

    # trec_eval has no reciprocal rank with a cutoff: cut the runs by its own order.
    cut = {
        query: dict(sorted(ranking.items(), key=lambda hit: (hit[1], hit[0].encode()), reverse=True)[:10])
        for query, ranking in run.items()
    }
    at_10 = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(cut)
    theirs = {
        "mrr@10": sum(at_10.get(query, {}).get("recip_rank", 0.0) for query in qrels) / len(qrels),
        "ndcg@10": mean("ndcg_cut_10"),
        "recall@100": mean("recall_100"),
    }
    for name, value in theirs.items():
        ours = generation["metrics"][f"{split}/{name}"]
        check(
            abs(ours - value) <= METRIC_TOLERANCE,
            f"pytrec_eval: generation {generation['generation']}, {split} {name}: {value:.6f}, manifest {ours:.6f}",
        )


def check_objects(store, generation):
    for block in generation["negatives"]:
        check_table(store, store / block["object"]["path"], block["queries"])
    for shard in generation["embeddings"]:
        rows = load_file(store / shard["path"])["embeddings"]
        fine = rows.dtype == np.float16 and np.isfinite(rows).all()
        check(fine, f"safetensors: …{shard['path'][-45:]}: {rows.dtype} {rows.shape}")


def main():
    store, model, texts, embeddings = map(Path, sys.argv[1:])
    lines = [json.loads(line) for line in texts.read_text().splitlines()]
    check_model(model, [f"{line['title']} {line['text']}" for line in lines], load_file(embeddings)["embeddings"])

    run = json.loads((store / "run.json").read_text())
    passages, queries = read_corpus(store, run["corpus"])
    generations = [json.loads(path.read_text()) for path in sorted(store.glob("generations/*/manifest.json"))]
    check(len(generations) > 0, f"{len(generations)} generations in {store}")
    kept = run["recipe"]["refresh"]["keep_generations"]
    for age, generation in enumerate(reversed(generations)):
        if age < kept:
            check_objects(store, generation)
        for split, ranked in generation["runs"].items():  # Runs outlive their generation.
            check_run(store, generation, split, ranked["path"], qrels_of(queries[split], passages))
    print(f"{failures} checks failed" if failures else "every check passed")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
