"""Generates a collection of any size in BEIR's layout: the same seed, the same bytes.

    python3 scripts/benchmarks/generated.py FOLDER --passages N [--questions Q] [--runs LEAST MOST] [--seed S]

A passage is three to five runs of four words of squad-mini, or LEAST to MOST, so words are
as frequent as in real text. A question is one run of its passage and one of its own, so
that hardly any two are equal. Memory holds the runs and the judgements.
"""

import argparse
import gzip
import json
import random
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "data/squad-mini/corpus.jsonl.gz"
# Runs of words, a power of two: a passage is drawn by the bits of one number.
BITS = 14
DEV = 100
SHORT = (3, 5)
# As long as MS MARCO's passages, which have some 56 words: 28 to 88 words, 58 on average,
# or 78 of BERT's tokens; fewer than one passage in a hundred has more than 128.
MARCO = (7, 22)


def runs():
    """Runs of four words, as JSON text without its quotes."""
    with gzip.open(SOURCE, "rt", encoding="utf-8") as lines:
        words = [word for line in lines for word in json.loads(line)["text"].split()]
    found = [" ".join(words[at : at + 4]) for at in range(0, len(words) - 4, 4)]
    step = max(1, len(found) >> BITS)
    chosen = [json.dumps(run)[1:-1] for run in found[::step]]
    return [chosen[at % len(chosen)] for at in range(1 << BITS)]


def drawn(numbers, table, least, most):
    """The runs of one passage. Every number of them is as frequent if a power of two of
    numbers may be."""
    lengths = most - least + 1
    spare = (lengths - 1).bit_length()
    bits = numbers.getrandbits(most * BITS + spare)
    many = least + (bits & ((1 << spare) - 1)) % lengths
    mask = (1 << BITS) - 1
    return [table[(bits >> (spare + BITS * at)) & mask] for at in range(many)]


def write(folder, passages, questions, seed, length=SHORT):
    """Writes corpus, queries and qrels of the splits train, dev and test; passages have as
    many runs as `length` says at least and at most."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    table = runs()
    numbers = random.Random(seed)
    # Question n asks for passage n * passages // all, so questions can be met on the way.
    splits = [("train", questions), ("dev", DEV), ("test", DEV)]
    every = sum(many for _, many in splits)
    due = iter((at * passages // every, at) for at in range(every))
    row, at = next(due)
    judged = []
    with (
        open(folder / "corpus.jsonl", "w", encoding="utf-8") as corpus,
        open(folder / "queries.jsonl", "w", encoding="utf-8") as queries,
    ):
        for number in range(passages):
            text = drawn(numbers, table, *length)
            corpus.write(f'{{"_id":"p{number}","text":"{" ".join(text)}"}}\n')
            while row == number:
                own = table[at * 40_503 % len(table)]
                queries.write(f'{{"_id":"q{at}","text":"{text[at % 3]} {own}"}}\n')
                judged.append(number)
                row, at = next(due, (None, 0))
    first = 0
    for split, many in splits:
        # Every split is spread over the corpus: a question belongs to it by its remainder.
        rows = (f"q{at}\tp{judged[at]}\t1\n" for at in order(every)[first : first + many])
        (folder / f"qrels/{split}.tsv").write_text(
            "query-id\tcorpus-id\tscore\n" + "".join(rows), encoding="utf-8"
        )
        first += many


def order(many):
    """The questions in an order of their own, so that no split is one end of the corpus."""
    numbers = list(range(many))
    random.Random(many).shuffle(numbers)
    return numbers


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--passages", type=int, required=True)
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--runs", type=int, nargs=2, default=SHORT, metavar=("LEAST", "MOST"))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if not 3 <= args.runs[0] <= args.runs[1]:
        parser.error("--runs are LEAST and MOST, of which LEAST is 3 or more")
    write(args.folder, args.passages, args.questions, args.seed, args.runs)


if __name__ == "__main__":
    main()
