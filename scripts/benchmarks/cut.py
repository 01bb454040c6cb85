"""A part of a collection, for suites that would take an hour with the whole."""

import gzip
import json


def cut(data, passages, to):
    """Writes `passages` evenly spaced passages of the BEIR folder `data` to `to`, with
    the questions that have a positive among them: all contenders read the same part."""
    (to / "qrels").mkdir(parents=True, exist_ok=True)
    with gzip.open(data / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        corpus = list(lines)
    passages = min(passages, len(corpus))
    corpus = [corpus[i * len(corpus) // passages] for i in range(passages)]
    kept = {json.loads(line)["_id"] for line in corpus}
    questions = set()
    for qrels in sorted((data / "qrels").glob("*.tsv")):
        header, *rows = qrels.read_text(encoding="utf-8").splitlines(keepends=True)
        rows = [row for row in rows if row.split("\t")[1] in kept]
        questions.update(row.split("\t")[0] for row in rows)
        (to / "qrels" / qrels.name).write_text(header + "".join(rows), encoding="utf-8")
    with gzip.open(data / "queries.jsonl.gz", "rt", encoding="utf-8") as lines:
        asked = [line for line in lines if json.loads(line)["_id"] in questions]
    for name, lines in (("corpus", corpus), ("queries", asked)):
        with gzip.open(to / f"{name}.jsonl.gz", "wt", encoding="utf-8") as out:
            out.writelines(lines)
    return to
