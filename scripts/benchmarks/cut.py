"""Parts of a collection, so that all contenders read the same."""

import gzip
import json
import shutil


def cut(data, passages, to):
    """Writes what the negatives of a refresh come from: `passages` evenly spaced passages of
    the BEIR folder `data`, 0 for all, and the training questions that have a positive among
    them. Of the other splits, of which Quarry scores dev at each refresh and its peer none, one
    question is left."""
    corpus = lines_of(data, "corpus")
    passages = min(passages or len(corpus), len(corpus))
    corpus = [corpus[i * len(corpus) // passages] for i in range(passages)]
    kept = {json.loads(line)["_id"] for line in corpus}
    qrels = {
        name: (header, [row for row in rows if row.split("\t")[1] in kept])
        for name, (header, rows) in judged(data).items()
    }
    for name, (header, rows) in qrels.items():
        if name != "train":
            positive = [row for row in rows if int(row.split("\t")[2]) > 0]
            qrels[name] = (header, positive[:1])
    return write(data, to, corpus, qrels)


def pairs(data, to):
    """Writes `data` to `to` with one training question a passage. Contenders then have as
    many passages in every batch: Quarry encodes one that answers two questions once."""
    qrels = judged(data)
    header, rows = qrels["train"]
    asked, answered, kept = set(), set(), []
    for row in rows:
        question, passage, *_ = row.split("\t")
        if question not in asked and passage not in answered:
            kept.append(row)
            asked.add(question)
            answered.add(passage)
    return write(data, to, lines_of(data, "corpus"), qrels | {"train": (header, kept)})


def lines_of(data, name):
    with gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return list(lines)


def judged(data):
    """Header and rows of each split's judgements."""
    found = {}
    for path in sorted((data / "qrels").glob("*.tsv")):
        header, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
        found[path.stem] = (header, rows)
    return found


def write(data, to, corpus, qrels):
    """A BEIR folder of these passages and judgements, with the questions they name."""
    shutil.rmtree(to, ignore_errors=True)
    (to / "qrels").mkdir(parents=True)
    asked = set()
    for name, (header, rows) in qrels.items():
        asked.update(row.split("\t")[0] for row in rows)
        (to / "qrels" / f"{name}.tsv").write_text(header + "".join(rows), encoding="utf-8")
    questions = [line for line in lines_of(data, "queries") if json.loads(line)["_id"] in asked]
    for name, lines in (("corpus", corpus), ("queries", questions)):
        with gzip.open(to / f"{name}.jsonl.gz", "wt", encoding="utf-8") as out:
            out.writelines(lines)
    return to
