"""Quarry beside sentence-transformers on one GPU, at MS MARCO's lengths, in bf16.

    scripts/bench gpu [encode|train ...] [--rounds N] [--passages N] [--steps N] [--warmup N]
                      [--batch N] [--threads N] [--attention NAME] [--seed N] [--json FILE]

The model is BERT-base with random weights (stub.py), the texts are generated (generated.py):
passages of 78 tokens on average, cut at 128, and questions of 12.

encode  --passages texts (200,000) from a file to a file of vectors; the model and the GPU's
        first call come before. The first 512 must be those that Quarry computes on the CPU.
train   --steps steps (120) of --batch pairs (256), distinct in each of them, with in-batch
        negatives; the first --warmup (20) are not timed. Quarry's programs are started by
        hand, as on several machines: `quarry run` scores the final model on the CPU.

Quarry's programs load the CUDA libtorch of Python's torch. One GPU is used, the first that
CUDA_VISIBLE_DEVICES names. What Python has no package for is left out, and said.
"""

import argparse
import importlib.util
import json
import math
import os
import shutil
import statistics
import sys
import time
from pathlib import Path

import generated
import main
import peers
import quarry
import size
import stub
from card import Card
from goals import verdict

# Contenders, and the least share of the peak that Quarry's useful FLOP/s may be.
SUITES = {
    "encode": (["peak:bf16", "quarry:bf16", "encode-st:bf16"], 0.45),
    "train": (["peak:bf16", "quarry:bf16", "train:bf16"], 0.35),
}
# How many times faster than the peer Quarry has to be.
FASTER = 1.5
# Packages of Python that a contender cannot do without.
NEEDS = {"encode-st": ("sentence_transformers",), "train": ("sentence_transformers", "datasets", "accelerate")}
# What tch binds: Quarry's programs load no other libtorch.
TORCH = "2.11.0"
# Dense products in bf16 that a card's data sheet promises, in FLOP/s.
DATA_SHEETS = {"H200": 989e12}
# Texts whose vectors are compared with those of the CPU, and the lowest cosine. Two texts
# are at .94 at most.
JUDGED, LEAST = 512, 0.995
# What is printed of a run besides: key, form, words.
BESIDE = (
    ("cosine", "8.5f", "lowest cosine with Quarry's f32 vectors from the CPU"),
    ("batch", "8d", "texts a batch, the fastest it found"),
    ("loading_seconds", "8.1f", "s of loading before it"),
    ("tokenise_seconds", "8.1f", "s of tokenising beside it"),
    ("encode_seconds", "8.1f", "s of it in the encoder"),
    ("loss", "8.4f", "mean loss of all steps"),
    ("busy", "8.1%", "of the steps with a kernel running, says nvidia-smi"),
    ("gpu_mib", "8.0f", "MiB of the GPU at most"),
)


def card(args):
    """The GPU's name. Refuses a machine without one, and sets Quarry's programs up for it."""
    needed = ("torch", "numpy", "safetensors", "tokenizers")
    if missing := [package for package in needed if importlib.util.find_spec(package) is None]:
        raise SystemExit(
            f"bench: {sys.executable} has no {', '.join(missing)}: let PYTHON name a Python that has torch"
            f" {TORCH} and the packages of scripts/bench"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    os.environ |= {"CUDA_VISIBLE_DEVICES": visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    found = main.peer(args, "about")
    if found["card"] is None:
        raise SystemExit(
            "bench: torch.cuda sees no GPU on this machine: run the gpu suite where there is an NVIDIA"
            " GPU with its driver and CUDA_VISIBLE_DEVICES does not hide it"
        )
    if found["torch"].split("+")[0] != TORCH:
        raise SystemExit(
            f"bench: {sys.executable} has torch {found['torch']}, whose libtorch Quarry's programs cannot"
            f" load: let PYTHON name a Python that has torch {TORCH}"
        )
    path = [found["libraries"], *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    os.environ["LD_LIBRARY_PATH"] = ":".join(path)
    return found["card"]


def prepare(args, suite):
    """What the suite's contenders read, and how much arithmetic a text or pair is."""
    if suite == "encode":
        generated.write(args.texts.parent, args.passages, 0, args.seed, generated.MARCO)
        judge(args)
        return main.work_of(args, peers.texts_of(args.texts))
    pairs = args.steps * args.batch
    # A question for every passage: no step has fewer passages than questions.
    generated.write(args.data, pairs + 2 * generated.DEV, pairs, args.seed, generated.MARCO)
    return main.work_of_a_pair(args)


def judge(args):
    """Vectors of the first texts, by Quarry's f32 on the CPU."""
    first = args.work / "judge.jsonl"
    with open(args.texts, encoding="utf-8") as lines:
        first.write_text("".join(line for line, _ in zip(lines, range(JUDGED))), encoding="utf-8")
    alone = argparse.Namespace(**{**vars(args), "texts": first, "device": "cpu"})
    quarry.encode(alone, "f32")


def agree(args, name):
    """What was fast must also be right: the lowest cosine with the judge's vectors."""
    import numpy
    from safetensors.numpy import load_file

    exact = load_file(args.work / "quarry-f32.safetensors")["embeddings"]
    if name == "quarry":
        other = load_file(args.work / "quarry-bf16.safetensors")["embeddings"][:JUDGED]
    else:
        other = numpy.load(args.work / "peer.npy", mmap_mode="r")[:JUDGED]
    norms = numpy.linalg.norm(exact, axis=1) * numpy.linalg.norm(other, axis=1)
    lowest = float(((exact * other).sum(1) / norms).min())
    if not lowest >= LEAST:
        raise SystemExit(f"bench: {name} has other vectors than the CPU: cosine {lowest}")
    return lowest


def encode(args):
    found = quarry.encode(args, "bf16")
    if not found["device"].startswith("cuda"):
        raise SystemExit(f"bench: quarry encode ran on {found['device']}, see {args.work / 'encode.log'}")
    return found


def train(args):
    """Steps of a trainer on the GPU, whose fleet has nothing to do once generation 0, which
    in-batch negatives do not look at, is there."""
    store = args.work / "store"
    shutil.rmtree(store, ignore_errors=True)
    settings = {
        "seed": args.seed,
        "train.precision": '"bf16"',
        "train.max_steps": args.steps,
        "train.batch_size": args.batch,
        "train.passage_length": args.length,
        "train.negatives": 0,
        "train.checkpoint_every": 2 * args.steps,
        "refresh.when": '"never"',
        "refresh.on_stale": '"off"',
        "mining.depth": 100,
        "mining.keep": 1,
    }
    command = [
        args.bin / "quarry", "prepare", "--data", args.data, "--model", args.model,
        "--store", store, "--recipe", "recipes/ance.toml",
    ]  # fmt: skip
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    quarry.timed(command, args.work / "prepare.log")
    try:
        return taken(args, store)
    finally:
        shutil.rmtree(store, ignore_errors=True)  # Gigabytes.


def taken(args, store):
    """The figures of the steps of a prepared run, once they are taken."""
    losses, log = store / "losses.jsonl", args.work / "trainer.log"

    def timed():
        return losses.exists() and args.warmup <= losses.read_bytes().count(b"\n") < args.steps

    with size.fleet(args, store, "train") as (url, coordinator, inferencer, _):
        trainer = size.launch(
            [
                args.bin / "quarry-trainer", "--coordinator", url, "--store", store,
                "--cache", store / "trainer-cache", "--device", "cuda",
                "--threads", args.threads, "--losses", losses,
            ],
            log,
        )  # fmt: skip
        try:
            with Card(timed) as watched:
                while trainer.poll() is None:
                    size.alive(coordinator)
                    if inferencer.poll():  # 0 at the end of the run
                        size.alive(inferencer)
                    time.sleep(0.2)
        finally:
            if trainer.poll() is None:
                trainer.terminate()
                trainer.wait()
    if trainer.returncode != 0:
        raise SystemExit(f"bench: the trainer failed, see {log}")
    steps = [json.loads(line) for line in open(losses, encoding="utf-8")]
    counted = steps[args.warmup :]
    seconds = sum(step["step_ms"] for step in counted) / 1000
    return {
        "seconds": seconds,
        "texts": args.batch * len(counted),
        "idle_share": sum(step["idle_ms"] for step in counted) / 1000 / seconds,
        "losses": [step["loss"] for step in steps],
    } | watched.figures()


OURS = {"encode": encode, "train": train}


def present(contender):
    """Whether Python has what the contender needs."""
    needed = NEEDS.get(contender.partition(":")[0], ())
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    if missing:
        print(
            f"bench: {contender} is left out: {sys.executable} has no package {', '.join(missing)}",
            file=sys.stderr,
        )
    return not missing


def measure(args, suite):
    """One list of results a contender, one result a round, contenders in turn."""
    found = {contender: [] for contender in SUITES[suite][0] if present(contender)}
    for turn in range(args.rounds):
        for contender, results in found.items():
            name = contender.partition(":")[0]
            result = OURS[suite](args) if name == "quarry" else main.peer(args, contender)
            if suite == "encode" and name != "peak":
                result["cosine"] = agree(args, name)
            if "losses" in result:
                result["loss"] = statistics.mean(result["losses"])
                if not math.isfinite(result["loss"]):
                    raise SystemExit(f"bench: {contender} has a loss that is not finite")
            results.append(result)
            figure, unit = pace(suite, name, result)
            print(f"round {turn + 1} {suite:8} {contender:16} {figure:9.1f} {unit}", file=sys.stderr)
    return found


def pace(suite, name, result):
    """A result's figure and its unit."""
    if name == "peak":
        return result["flops"] / 1e12, "TFLOP/s"
    return result["texts"] / result["seconds"], "texts/s" if suite == "encode" else "pairs/s"


def judged(suite, found, work, name):
    """Rows of words, values round by round, goal (None: it has none) and whether it is the
    most."""
    ours, (_, share) = found["quarry:bf16"], SUITES[suite]
    useful = [work * result["texts"] / result["seconds"] for result in ours]
    peaks = [result["flops"] for result in found["peak:bf16"]]
    of_peak = "useful FLOP/s of the bf16 peak measured here"
    rows = [(of_peak, [a / b for a, b in zip(useful, peaks)], share, False)]
    for model, sheet in DATA_SHEETS.items():
        if model in name:
            words = f"and of the {sheet / 1e12:.0f} TFLOP/s of the {model}'s data sheet"
            rows.append((words, [a / sheet for a in useful], share, False))
    if suite == "encode":
        inside = [work * r["texts"] / r["encode_seconds"] / top for r, top in zip(ours, peaks)]
        rows.append(("of the measured peak, within the encoder", inside, None, False))
    else:
        rows.append(("waiting for data, of a step", [r["idle_share"] for r in ours], 0.01, True))
    for peer in set(found) - {"quarry:bf16", "peak:bf16"}:
        rates = [pace(suite, "", a)[0] / pace(suite, "", b)[0] for a, b in zip(ours, found[peer])]
        rows.insert(0, (f"quarry:bf16 is faster than {peer}, times", rates, FASTER, False))
    return [dict(zip(("words", "values", "goal", "at_most"), row)) for row in rows]


def show(suite, report, name):
    print(f"\n{suite} on {name}")
    for contender, results in report["results"].items():
        figures = [pace(suite, contender.partition(":")[0], result) for result in results]
        print(f"  {contender:18}{'  '.join(f'{figure:8.1f}' for figure, _ in figures)}  {figures[0][1]}")
        for key, form, words in BESIDE:
            if all(key in result for result in results):
                line = "  ".join(f"{result[key]:{form}}" for result in results)
                print(f"  {'':18}{line}  {words}")
    for row in report["rows"]:
        line = "  ".join(f"{value:6.3f}" for value in row["values"])
        goal = verdict(row["values"], row["goal"], row["at_most"]) if row["goal"] else ""
        print(f"  {row['words']:62}{line}   {goal}".rstrip())
    for contender in SUITES[suite][0]:
        if contender not in report["results"]:
            print(f"  {contender} was left out, and no goal against it was judged")


def parsed():
    parser = argparse.ArgumentParser(
        prog="scripts/bench gpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("suites", nargs="*", help=f"{', '.join(SUITES)} (all)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--passages", type=int, default=200_000, help="texts of encode")
    parser.add_argument("--steps", type=int, default=120, help="of train")
    parser.add_argument("--warmup", type=int, default=20, help="steps of train that are not timed")
    parser.add_argument("--batch", type=int, default=256, help="pairs of a step")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--attention", help="sentence-transformers' attn_implementation, if not its default")
    parser.add_argument("--tokenizer", type=Path, default=main.MODEL, help="model folder with BERT's vocabulary")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("target/bench/gpu"))
    parser.add_argument("--json", type=Path, help="file for every figure")
    args = parser.parse_args()
    unknown = set(args.suites) - set(SUITES)
    if unknown:
        parser.error(f"unknown suite {', '.join(sorted(unknown))}: choose from {', '.join(SUITES)}")
    if not 0 < args.warmup < args.steps - 1:
        parser.error("--warmup is at least 1, and two steps or more are left to be timed")
    if args.passages < JUDGED:
        parser.error(f"--passages is at least {JUDGED}, of which the vectors are compared")
    args.device, args.bin, args.length = "cuda", quarry.BIN, stub.BERT_BASE.longest
    args.model, args.data = args.work / "bert-base", args.work / "pairs"
    args.texts = args.work / "passages" / "corpus.jsonl"
    return args


def run():
    args = parsed()
    args.work.mkdir(parents=True, exist_ok=True)
    name = card(args)
    stub.write(args.model, args.tokenizer, stub.BERT_BASE)
    reports = {"setting": main.setting(args) | {"card": name}}
    for suite in args.suites or SUITES:
        work = prepare(args, suite)
        found = measure(args, suite)
        reports[suite] = {"results": found, "rows": judged(suite, found, work, name), "flop": work}
        show(suite, reports[suite], name)
        if args.json:  # After each: a suite that fails takes no other with it.
            args.json.write_text(json.dumps(reports, indent=1), encoding="utf-8")


if __name__ == "__main__":
    run()
