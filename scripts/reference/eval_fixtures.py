#!/usr/bin/env python3
"""Reference values for quarry-eval, from pytrec_eval-terrier and scipy.

Writes crates/eval/tests/data/{fuzz.json.gz,student_t.tsv}. Run with
`python scripts/reference/eval_fixtures.py` after
`pip install pytrec_eval-terrier==0.5.11 scipy`.
"""

import gzip
import json
import pathlib
import random

import pytrec_eval
from scipy import stats

DATA = pathlib.Path(__file__).resolve().parents[2] / "crates/eval/tests/data"
# Our name of each measure and pytrec_eval's. MRR@k is derived: recip_rank where it is at least 1/k.
MEASURES = {
    "ndcg@1": "ndcg_cut_1",
    "ndcg@3": "ndcg_cut_3",
    "ndcg@10": "ndcg_cut_10",
    "recall@1": "recall_1",
    "recall@5": "recall_5",
    "map": "map",
    "map@5": "map_cut_5",
    "precision@5": "P_5",
    "success@1": "success_1",
    "success@5": "success_5",
}


def small_case(rng):
    """One query: few documents, grades from -1 to 3, scores from a small set so that ties abound."""
    documents = [rng.choice(["d", "D", "ü", "1"]) + str(i) for i in range(rng.randint(1, 14))]
    judged = rng.sample(documents, rng.randint(1, len(documents)))
    qrels = {d: rng.choice([-1, 0, 0, 1, 1, 2, 3]) for d in judged}
    scores = [-1.5, 0.0, 0.25, 1.0, 1.000000001, 7.0]
    retrieved = rng.sample(documents, rng.randint(1, len(documents)))
    return qrels, {d: rng.choice(scores) for d in retrieved}


def fuzz():
    rng = random.Random(20240707)
    cases = []
    while len(cases) < 200:
        qrels, run = small_case(rng)
        evaluator = pytrec_eval.RelevanceEvaluator(
            {"q": qrels}, {"ndcg_cut", "recall", "map", "map_cut", "P", "success", "recip_rank"} |
            {"ndcg_cut.1,3,10", "recall.1,5", "map_cut.5", "P.5", "success.1,5"})
        values = evaluator.evaluate({"q": run})["q"]
        expected = {ours: values[theirs] for ours, theirs in MEASURES.items()}
        for k in (1, 3, 10):
            rank = values["recip_rank"]
            expected[f"mrr@{k}"] = rank if rank >= 1 / k - 1e-9 else 0.0
        cases.append({"qrels": qrels, "run": run, "expected": expected})
    text = json.dumps(cases, ensure_ascii=False, sort_keys=True)
    (DATA / "fuzz.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


def student_t():
    rows = ["t\tdf\ttwo_sided_p"]
    for df in (1, 2, 4, 10, 30, 249, 6979):
        for t in (0.0, 0.1, 0.7, 1.9862541, 2.5, 5.0, 12.0):
            rows.append(f"{t}\t{df}\t{float(2 * stats.t.sf(t, df))!r}")
    (DATA / "student_t.tsv").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    DATA.mkdir(parents=True, exist_ok=True)
    fuzz()
    student_t()
