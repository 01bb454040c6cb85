"""Opens the tables that the prepare_squad_mini example wrote with pyarrow and safetensors, and checks their columns.

    cargo run -p quarry-corpus --example prepare_squad_mini -- OUT
    python scripts/reference/check_arrow.py OUT data/squad-mini
"""
import gzip
import hashlib
import json
import struct
import sys
from pathlib import Path

import pyarrow as pa


def table(path):
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        assert reader.num_record_batches == 1, path
        batch = reader.get_batch(0)
        batch.validate(full=True)
        return reader.schema, batch


def jsonl(path):
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def types(schema):
    return {field.name: field.type for field in schema}


def lengths(text, limit):
    return [len(word.encode()) for word in text.split()][:limit]


def check_shards(out, corpus):
    row = 0
    for path in sorted(out.glob("shard-*.arrow")):
        schema, batch = table(path)
        assert types(schema) == {
            "id": pa.string(), "text": pa.large_string(),
            "tokens": pa.list_(pa.field("item", pa.uint32(), nullable=False)), "text_hash": pa.uint64(),
        }, schema
        assert not any(field.nullable for field in schema)
        assert schema.metadata == {b"first_row": str(row).encode()}, schema.metadata
        for passage in batch.to_pylist():
            source = corpus[row]
            text = source["title"] + " " + source["text"]
            digest = hashlib.sha256(" ".join(text.split()).encode()).digest()
            assert passage["id"] == source["_id"] and passage["text"] == text
            assert passage["tokens"] == lengths(text, 128)
            assert passage["text_hash"] == struct.unpack(">Q", digest[:8])[0]
            row += 1
        print(path.name, batch.num_rows, "rows:", ", ".join(f"{name} {kind}" for name, kind in types(schema).items()))
    assert row == len(corpus), row


def check_queries(out, data, split, texts, rows):
    schema, batch = table(out / f"queries-{split}.arrow")
    assert schema.names == ["id", "text", "tokens", "judged", "grades"], schema
    qrels = {}
    for line in (data / "qrels" / f"{split}.tsv").read_text().splitlines()[1:]:
        query, passage, score = line.split("\t")
        qrels.setdefault(query, []).append((rows[passage], int(score)))
    assert [query["id"] for query in batch.to_pylist()] == [query for query in texts if query in qrels]
    for query in batch.to_pylist():
        assert query["text"] == texts[query["id"]] and query["tokens"] == lengths(query["text"], 32)
        assert list(zip(query["judged"], query["grades"])) == qrels[query["id"]]
    print(f"queries-{split}.arrow", batch.num_rows, "rows:", ", ".join(map(str, schema.types)))


def check_negatives(path):
    schema, batch = table(path)
    assert batch.to_pylist() == [
        {"query": 7, "rows": [3, 1], "scores": [0.5, 0.25], "positives": [9], "positive_scores": [0.75]},
        {"query": 0, "rows": [], "scores": [], "positives": [], "positive_scores": []},
    ]
    print(path.name, batch.num_rows, "rows:", ", ".join(map(str, schema.types)))


def check_embeddings(path):
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        assert file.metadata() == {"checkpoint": "digest", "first_row": "250", "kind": "quarry-embeddings"}
        rows = file.get_tensor("embeddings")
    assert rows.dtype == "float16" and (rows == [[0, 0.25, 0.5], [0.75, 1, 1.25]]).all()
    print(path.name, rows.shape, rows.dtype)


def main():
    out, data = map(Path, sys.argv[1:])
    corpus = jsonl(data / "corpus.jsonl.gz")
    check_shards(out, corpus)
    texts = {query["_id"]: query["text"] for query in jsonl(data / "queries.jsonl.gz")}
    rows = {passage["_id"]: row for row, passage in enumerate(corpus)}
    for split in ("train", "dev", "test"):
        check_queries(out, data, split, texts, rows)
    check_negatives(out / "block-00000.arrow")
    check_embeddings(out / "rows.safetensors")
    print("pyarrow", pa.__version__, "agrees")


if __name__ == "__main__":
    main()
