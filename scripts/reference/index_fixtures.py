#!/usr/bin/env python3
"""Reference values for quarry-index, from faiss-cpu and bm25s.

Writes crates/index/tests/data/{faiss.json.gz,bm25.json}. Run with
`python scripts/reference/index_fixtures.py` after
`pip install faiss-cpu==1.15.1 bm25s==0.3.16 numpy`.
"""

import gzip
import json
import pathlib

import bm25s
import faiss
import numpy as np

DATA = pathlib.Path(__file__).resolve().parents[2] / "crates/index/tests/data"


def faiss_reference():
    """Whole-number vectors: scores are exact in f32 whatever the order of summation."""
    faiss.omp_set_num_threads(1)
    rng = np.random.default_rng(7)
    dim, centres = 16, rng.integers(-60, 61, size=(30, 16))
    def sample(count):
        return centres[rng.integers(0, 30, count)] + rng.integers(-40, 41, size=(count, dim))
    rows, queries = sample(3000), sample(40)
    def search(factory):
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        index.train(rows.astype("float32"))
        index.add(rows.astype("float32"))
        if "IVF" in factory:
            faiss.ParameterSpace().set_index_parameter(index, "nprobe", 4)
        return index.search(queries.astype("float32"), 10)
    scores, truth = search("Flat")
    recalls = []
    for factory in ("IVF16,Flat", "HNSW16", "PQ8np", "IVF16,PQ8np", "SQ8"):
        _, found = search(factory)
        recalls.append((factory, float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth)]))))
    reference = {
        "dim": dim,
        "rows": rows.reshape(-1).tolist(),
        "queries": queries.reshape(-1).tolist(),
        "flat_scores": scores.tolist(),
        "recalls": recalls,
    }
    (DATA / "faiss.json.gz").write_bytes(gzip.compress(json.dumps(reference).encode(), mtime=0))


def bm25_reference():
    """Documents of at most 40 words, whose lengths tantivy stores exactly; a query may repeat words."""
    rng = np.random.default_rng(3)
    words = [f"w{i}" for i in range(30)]
    weights = 1 / np.arange(1, 31)
    draw = lambda count: [words[i] for i in rng.choice(30, size=count, p=weights / weights.sum())]
    documents = [draw(rng.integers(1, 41)) for _ in range(20)]
    queries = [draw(rng.integers(1, 7)) for _ in range(12)] + [["w1", "w1", "w4"]]
    index = bm25s.BM25(method="lucene", k1=1.2, b=0.75, dtype="float64")
    index.index(documents, show_progress=False)
    vocabulary = {word for document in documents for word in document}
    # A repeated word counts as often as it stands there: add up single-word scores.
    scores = [sum((index.get_scores([word]) for word in query if word in vocabulary), np.zeros(20)).tolist()
              for query in queries]
    reference = {
        "documents": [" ".join(document) for document in documents],
        "queries": [" ".join(query) for query in queries],
        "scores": scores,
    }
    (DATA / "bm25.json").write_text(json.dumps(reference, indent=0))


if __name__ == "__main__":
    DATA.mkdir(parents=True, exist_ok=True)
    faiss_reference()
    bm25_reference()
