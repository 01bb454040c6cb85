"""Runs the contenders in turn and prints what scripts/bench promises."""

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import coordinator
import floors
import peers
import quarry
from cut import cut

MODEL = Path(".deps/models/all-MiniLM-L6-v2")

# contender: (what runs it, dtype); ratios: (ours, theirs, goal).
SUITES = {
    "encode": (
        ["peak:bf16", "peak:f32", "quarry:bf16", "quarry:f32", "encode-st:f32", "encode-st:bf16", "encode-ort:f32"],
        [
            ("quarry:bf16", "encode-st:f32", 3.0),
            ("quarry:bf16", "encode-st:bf16", 1.6),
            ("quarry:bf16", "encode-ort:f32", 2.0),
            ("quarry:f32", "encode-ort:f32", 1.3),
        ],
    ),
    "refresh": (
        ["quarry:bf16", "refresh:f32", "refresh:bf16"],
        [("quarry:bf16", "refresh:f32", 3.0), ("quarry:bf16", "refresh:bf16", None)],
    ),
    # The pace is of no interest here: --steps, and what a model knows after them.
    "curve": (["quarry:bf16", "train:bf16"], []),
    "train": (
        ["peak:bf16", "quarry:bf16", "quarry:f32", "train:bf16", "train:f32"],
        [("quarry:bf16", "train:bf16", 2.0), ("quarry:f32", "train:f32", 1.5)],
    ),
    # A ratio is here the time of a step beside a busy fleet over that beside an idle one.
    "asynchrony": (
        ["quarry:alone", "quarry:neighbour", "quarry:refreshing"],
        [
            ("quarry:alone", "quarry:refreshing", 1.02),
            ("quarry:alone", "quarry:neighbour", None),
            ("quarry:neighbour", "quarry:refreshing", None),
        ],
    ),
}  # fmt: skip
OURS = {
    "encode": quarry.encode,
    "refresh": quarry.refresh,
    "train": quarry.train,
    "curve": quarry.train,
    "asynchrony": quarry.asynchrony,
}


def peer(args, contender):
    command = [
        sys.executable, Path(__file__).with_name("peers.py"), contender,
        "--model", args.model, "--threads", args.threads, "--texts", args.texts,
        "--data", args.data, "--output", args.work / "peer.npy", "--steps", args.steps,
        "--warmup", args.warmup, "--length", args.length, "--seed", args.seed,
    ]  # fmt: skip
    log = args.work / f"{contender.replace(':', '-')}.log"
    with open(log, "w", encoding="utf-8") as errors:
        done = subprocess.run(
            [str(part) for part in command], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    if done.returncode != 0:
        raise SystemExit(f"bench: {contender} failed, see {log}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(args, suite):
    """One list of results a contender, one result a round, contenders in turn."""
    contenders, _ = SUITES[suite]
    found = {contender: [] for contender in contenders}
    first = args.seed
    for turn in range(args.rounds):
        args.seed = first + turn
        for contender in contenders:
            name, _, dtype = contender.partition(":")
            result = OURS[suite](args, dtype) if name == "quarry" else peer(args, contender)
            found[contender].append(result)
            rate = result.get("flops", 0) / 1e9 or result["texts"] / result["seconds"]
            print(f"round {turn + 1} {suite:8} {contender:16} {rate:9.1f}", file=sys.stderr)
            if suite == "curve":
                result["dev"] = scores(args, trained(args, name, dtype))
            if suite == "encode" and not contender.startswith(("peak", "quarry:bf16")):
                result["cosine"] = agree(args.work, contender)
    args.seed = first
    return found


def trained(args, name, dtype):
    """The folder of the model that a contender has just trained."""
    if name != "quarry":
        return (args.work / "peer.npy").with_suffix(".model")
    folder = args.work / "model"
    shutil.rmtree(folder, ignore_errors=True)
    export = ["export", "--store", args.work / "train", "--output", folder]
    quarry.timed([quarry.BIN / "quarry", *export], args.work / "export.log")
    return folder


def scores(args, model):
    """MRR@10 and nDCG@10 on dev, for both contenders by `quarry eval`."""
    command = [
        quarry.BIN / "quarry", "eval", "--model", model, "--data", args.data, "--split", "dev",
        "--passage-length", args.length, "--query-length", 64, "--threads", args.threads, "--json",
    ]  # fmt: skip
    _, printed = quarry.timed(command, args.work / "eval.log")
    found = json.loads(printed)
    return {name: found[name] for name in ("mrr@10", "ndcg@10")}


def agree(work, contender):
    """What was fast must also be right: the lowest cosine of a contender's vectors with
    Quarry's in f32; of `quarry:f32`, with those in bf16."""
    import numpy
    from safetensors.numpy import load_file

    exact = load_file(work / "quarry-f32.safetensors")["embeddings"]
    if contender == "quarry:f32":
        other = load_file(work / "quarry-bf16.safetensors")["embeddings"]
    else:
        other = numpy.load(work / "peer.npy")
    lowest = float((exact * other).sum(1).min())
    # sentence-transformers keeps its bf16 states and LayerNorms in 8 bits throughout.
    least = 0.99 if contender == "encode-st:bf16" else 0.9995
    if not lowest >= least:
        raise SystemExit(f"bench: {contender} has other vectors: cosine {lowest}")
    return lowest


def ratios(suite, found):
    """Of each pair, round by round: how many times faster ours was."""
    rows = []
    for ours, theirs, goal in SUITES[suite][1]:
        rates = [
            (a["texts"] / a["seconds"]) / (b["texts"] / b["seconds"])
            if suite != "refresh"
            else b["seconds"] / a["seconds"]
            for a, b in zip(found[ours], found[theirs])
        ]
        rows.append({"ours": ours, "theirs": theirs, "goal": goal, "ratios": rates})
    return rows


def shares(args, suite, found):
    """Useful FLOP/s of Quarry over the fastest product the machine does, round by round."""
    if suite not in ("encode", "train"):
        return []
    texts = list(peers.texts_of(args.texts))
    longest = 256 if suite == "encode" else args.length
    work = floors.flops(args.model, floors.lengths_of(args.model, texts, longest)) / len(texts)
    if suite == "train":
        # Forward and twice that backward, of a question as well.
        positives = peers.judgements(args.data, "train")
        _, questions = peers.questions_of(args.data, positives)
        work += floors.flops(args.model, floors.lengths_of(args.model, questions, 64)) / len(questions)
        work *= 3
    rows = []
    for dtype in ("bf16", "f32"):
        if f"peak:{dtype}" in found:
            of_peak = [
                work * ours["texts"] / ours["seconds"] / top["flops"]
                for ours, top in zip(found[f"quarry:{dtype}"], found[f"peak:{dtype}"])
            ]
            rows.append({"dtype": dtype, "share": of_peak})
    return rows


def show(suite, report):
    print(f"\n{suite}")
    for contender, results in report["results"].items():
        rates = [r.get("flops", 0) / 1e9 or r["texts"] / r["seconds"] for r in results]
        if suite == "refresh":
            rates = [r["seconds"] for r in results]
        unit = {"refresh": "s", "encode": "texts/s"}.get(suite, "pairs/s")
        unit = "GFLOP/s" if contender.startswith("peak") else unit
        print(f"  {contender:18}{'  '.join(f'{rate:8.1f}' for rate in rates)}  {unit}")
        for line in beside(results):
            print(f"  {'':18}{line}")
    for row in report["ratios"]:
        line = "  ".join(f"{ratio:5.2f}" for ratio in row["ratios"])
        middle = statistics.median(row["ratios"])
        print(f"  {row['ours']} / {row['theirs']:16}{line}  median {middle:.2f}"
              + (f", goal {row['goal']}" if row["goal"] else ""))
    for row in report["shares"]:
        line = "  ".join(f"{share:5.2f}" for share in row["share"])
        print(f"  useful FLOP/s of the {row['dtype']} gemm peak  {line}")


def beside(results):
    """What a run shows besides its pace."""
    if all("losses" in r for r in results):
        steps = len(results[0]["losses"])
        for part in range(3):
            first, last = steps * part // 3, steps * (part + 1) // 3
            means = "  ".join(f"{statistics.mean(r['losses'][first:last]):8.4f}" for r in results)
            yield f"{means}  mean loss of steps {first + 1} to {last}"
    if all("dev" in r for r in results):
        for name in results[0]["dev"]:
            found = [r["dev"][name] for r in results]
            yield f"{'  '.join(f'{x:8.4f}' for x in found)}  {name} on dev, mean {statistics.mean(found):.4f}"
    for key, form, what in (
        ("peak_mib", "8.0f", "MiB at most"),
        ("slowest_swap_ms", "8.1f", "ms, the slowest swap"),
        ("generations", "8d", "generations in use"),
    ):
        if all(key in r for r in results):
            yield f"{'  '.join(f'{r[key]:{form}}' for r in results)}  {what}"
    if all("idle" in r for r in results):
        shares = [r["idle"] / r["seconds"] for r in results]
        yield f"{'  '.join(f'{share:8.3%}' for share in shares)}  waiting for data"


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("suites", nargs="*", help="encode, refresh, curve, train, asynchrony, coordinator (all)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", type=Path, default=Path("data/squad-mini"))
    parser.add_argument("--passages", type=int, default=0, help="of encode (the first) and refresh (evenly spaced); 0 takes all")
    parser.add_argument("--length", type=int, default=160, help="tokens of a passage in train")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=3, help="steps of train that are not timed")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for every figure")
    args = parser.parse_args()
    args.work = Path("target/bench")
    args.work.mkdir(parents=True, exist_ok=True)
    suites = [*SUITES, "coordinator"]
    unknown = set(args.suites) - set(suites)
    if unknown:
        parser.error(f"unknown suite {', '.join(sorted(unknown))}: choose from {', '.join(suites)}")
    wanted = args.suites or suites
    if set(wanted) & set(SUITES):
        args.texts = passages(args)
    reports = {}
    whole = args.data
    for suite in wanted:
        if suite == "coordinator":  # has no peer
            reports[suite] = coordinator.measure(args)
            coordinator.show(reports[suite])
            continue
        part = suite == "refresh" and args.passages
        args.data = cut(whole, args.passages, args.work / "part") if part else whole
        found = measure(args, suite)
        reports[suite] = {
            "results": found,
            "ratios": ratios(suite, found),
            "shares": shares(args, suite, found),
        }
        show(suite, reports[suite])
    if args.json:
        setting = {"threads": args.threads, "data": str(whole), "passages": args.passages, "machine": machine()}
        args.json.write_text(json.dumps({"setting": setting, **reports}, indent=1))


def passages(args):
    """The passages to encode, as a file that every contender reads."""
    import gzip

    path = args.work / "passages.jsonl"
    with gzip.open(args.data / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        kept = list(lines)[: args.passages or None]
    path.write_text("".join(kept), encoding="utf-8")
    return path


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {"processor": names[0] if names else platform.processor(), "cores": len(names)}


if __name__ == "__main__":
    main()
