"""Runs the contenders in turn and prints what scripts/bench promises."""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import asynchrony
import coordinator
import floors
import peers
import quarry
import suites
from cut import cut, pairs
from goals import verdict

MODEL = Path(".deps/models/all-MiniLM-L6-v2")

NATIVE = suites.has_bf16()
SUITES = suites.SUITES if NATIVE else {name: suites.in_f32(suite) for name, suite in suites.SUITES.items()}
# Rounds and steps where --rounds and --steps are not given: a curve wants seeds and length,
# and a fleet some generations, in every state five turns after the steps that are not timed.
ROUNDS, STEPS = {"curve": 3, "asynchrony": 3}, {"curve": 60, "asynchrony": 63}
# Of Quarry alone; their modules measure and show.
ALONE = {"asynchrony": asynchrony, "coordinator": coordinator}
# What else is printed of a run: key, form, words, and goal with whether it is the most.
BESIDE = (
    ("cosine", "8.4f", "lowest cosine with Quarry's f32 vectors", (0.9995, False)),
    ("peak_mib", "8.0f", "MiB at most", None),
    ("encoder_share", "8.1%", "of it inside the encoder", (0.9, False)),
    ("prepare", "8.1f", "s of tokenising before it, once a collection", None),
    ("idle_share", "8.3%", "waiting for data", (0.01, True)),
)
OURS = {
    "encode": quarry.encode,
    "refresh": quarry.refresh,
    "train": quarry.train,
    "curve": quarry.train,
}


def peer(args, contender):
    command = [
        sys.executable, Path(__file__).with_name("peers.py"), contender,
        "--model", args.model, "--threads", args.threads, "--texts", args.texts,
        "--data", args.data, "--output", args.work / "peer.npy", "--steps", args.steps,
        "--warmup", args.warmup, "--length", args.length, "--seed", args.seed,
        "--batch", args.batch, "--device", args.device,
    ]  # fmt: skip
    if args.attention:
        command += ["--attention", args.attention]
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
    contenders = [name for name in SUITES[suite][0] if name in (args.only or SUITES[suite][0])]
    found = {contender: [] for contender in contenders}
    first = args.seed
    for turn in range(args.rounds):
        args.seed = first + turn
        for contender in contenders:
            name, _, dtype = contender.partition(":")
            result = OURS[suite](args, dtype) if name == "quarry" else peer(args, contender)
            found[contender].append(result)
            figure, unit = pace(suite, contender, result)
            print(f"round {turn + 1} {suite:8} {contender:16} {figure:9.1f} {unit}", file=sys.stderr)
            if "encoding" in result:
                workers = result.get("workers", 1)
                result["encoder_share"] = result["encoding"] / result["seconds"] / workers
            if "idle" in result:
                result["idle_share"] = result["idle"] / result["seconds"]
            if suite == "curve":
                result["dev"] = scores(args, trained(args, name, dtype))
            if suite == "encode" and name != "peak" and contender != "quarry:bf16":
                # Quarry's f32 vectors come after its bf16 ones, and judge them.
                judged = "quarry:bf16" if contender == "quarry:f32" else contender
                if judged in found and "quarry:f32" in found:
                    found[judged][turn]["cosine"] = agree(args.work, judged)
    args.seed = first
    return found


def pace(suite, contender, result):
    """A result's figure and its unit."""
    if contender.startswith("peak"):
        return result["flops"] / 1e9, "GFLOP/s"
    if suite == "refresh":
        return result["seconds"], "s"
    return result["texts"] / result["seconds"], "texts/s" if suite == "encode" else "pairs/s"


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
    Quarry's in f32."""
    import numpy
    from safetensors.numpy import load_file

    exact = load_file(work / "quarry-f32.safetensors")["embeddings"]
    if contender == "quarry:bf16":
        other = load_file(work / "quarry-bf16.safetensors")["embeddings"]
    else:
        other = numpy.load(work / "peer.npy")
    norms = numpy.linalg.norm(exact, axis=1) * numpy.linalg.norm(other, axis=1)
    lowest = float(((exact * other).sum(1) / norms).min())
    # sentence-transformers keeps its bf16 states and LayerNorms in 8 bits throughout.
    least = 0.99 if contender == "encode-st:bf16" else 0.9995
    if not lowest >= least:
        raise SystemExit(f"bench: {contender} has other vectors: cosine {lowest}")
    return lowest


def ratios(suite, found):
    """Of each pair, round by round: how many times faster ours was."""
    rows = []
    for ours, theirs, goal in SUITES[suite][1]:
        if not {ours, theirs} <= found.keys():
            continue
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
    work = work_of_a_pair(args) if suite == "train" else work_of(args, peers.texts_of(args.texts))
    rows = []
    for dtype in ("bf16", "f32"):
        if {f"peak:{dtype}", f"quarry:{dtype}"} <= found.keys():
            of_peak = [
                work * ours["texts"] / ours["seconds"] / top["flops"]
                for ours, top in zip(found[f"quarry:{dtype}"], found[f"peak:{dtype}"])
            ]
            rows.append({"dtype": dtype, "share": of_peak, "goal": suites.SHARES.get((suite, dtype))})
    return rows


def work_of(args, texts, longest=None):
    """FLOP of a text, on average."""
    texts = list(texts)
    lengths = floors.lengths_of(args.model, texts, longest or floors.longest_of(args.model))
    return floors.flops(args.model, lengths) / len(texts)


def work_of_a_pair(args):
    """FLOP of a question and its passage, forward and twice that backward."""
    positives = peers.judgements(args.data, "train")
    answers = {passage for passages in positives.values() for passage in passages}
    corpus = peers.passages_of(peers.file_of(args.data, "corpus"))
    _, questions = peers.questions_of(args.data, positives)
    passages = (text for name, text in corpus if name in answers)
    return 3 * (work_of(args, passages, args.length) + work_of(args, questions, 64))


def show(suite, report):
    print(f"\n{suite}")
    for contender, results in report["results"].items():
        figures = [pace(suite, contender, result) for result in results]
        print(f"  {contender:18}{'  '.join(f'{figure:8.1f}' for figure, _ in figures)}  {figures[0][1]}")
        for line in beside(results, contender.startswith("quarry")):
            print(f"  {'':18}{line}")
    for row in report["ratios"]:
        words = f"{row['ours']} is faster than {row['theirs']}, times"
        line = "  ".join(f"{ratio:5.2f}" for ratio in row["ratios"])
        goal = verdict(row["ratios"], row["goal"], False) if row["goal"] else ""
        print(f"  {words:60}{line}   {goal}".rstrip())
    for row in report["shares"]:
        words = f"useful FLOP/s of the {row['dtype']} peak"
        line = "  ".join(f"{share:5.2f}" for share in row["share"])
        goal = verdict(row["share"], row["goal"], False) if row["goal"] else ""
        print(f"  {words:60}{line}   {goal}".rstrip())


def beside(results, ours):
    """What a run shows besides its pace; goals are for ours."""
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
    for key, form, words, goal in BESIDE:
        if all(key in r for r in results):
            values = [r[key] for r in results]
            line = "  ".join(f"{value:{form}}" for value in values)
            judged = f"   {verdict(values, *goal)}" if goal and ours else ""
            yield f"{line}  {words}{judged}"


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("suites", nargs="*", help="encode, refresh, curve, train, asynchrony, coordinator (all)")
    parser.add_argument("--rounds", type=int, help="2, of curve and asynchrony 3")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", type=Path, default=Path("data/squad-mini"))
    parser.add_argument("--passages", type=int, default=0, help="of encode (the first) and refresh (evenly spaced); 0 takes all")
    parser.add_argument("--length", type=int, default=160, help="tokens of a passage in train")
    parser.add_argument("--steps", type=int, help="12, of curve 60, of asynchrony 63")
    parser.add_argument("--warmup", type=int, default=3, help="steps of train that are not timed")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=lambda names: names.split(","), help="of one suite's contenders those, by comma: quarry:bf16,refresh:f32")
    parser.add_argument("--json", type=Path, help="file for every figure")
    # These suites are the processor's: a GPU, which programs take by themselves, is hidden.
    parser.set_defaults(device="cpu", batch=32, attention=None)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    args = parser.parse_args()
    args.work = Path("target/bench")
    args.work.mkdir(parents=True, exist_ok=True)
    # As by Ctrl-C: what a suite has started ends with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    every = [*SUITES, *ALONE]
    unknown = set(args.suites) - set(every)
    if unknown:
        parser.error(f"unknown suite {', '.join(sorted(unknown))}: choose from {', '.join(every)} (gpu and size come first and alone)")
    wanted = args.suites or every
    if not NATIVE and set(wanted) & set(SUITES):
        print("bench: this processor has no products of bf16: f32 runs in its place, and goals of bf16 are left out", file=sys.stderr)
    if args.only:
        if len(wanted) != 1 or wanted[0] not in SUITES:
            parser.error(f"--only wants one suite before it, of {', '.join(SUITES)}")
        known = SUITES[wanted[0]][0]
        if not set(args.only) <= set(known):
            parser.error(f"--only of {wanted[0]} takes some of {', '.join(known)}")
    rounds, steps = args.rounds, args.steps
    if "refresh" in wanted and args.threads % 2:
        parser.error("--threads of refresh is even: two workers share them")
    if not 0 < args.warmup < (steps or 12):
        parser.error("--warmup is at least 1 and less than --steps")
    least = args.warmup + len(asynchrony.STATES) * asynchrony.TURN
    if "asynchrony" in wanted and (steps or STEPS["asynchrony"]) < least:
        parser.error(f"--steps of asynchrony is at least {least}: a turn of each state behind --warmup")
    if set(wanted) & set(SUITES):
        args.texts = passages(args)
    reports = {"setting": setting(args)}
    whole = args.data
    for suite in wanted:
        args.data = part_of(args, suite, whole)
        args.rounds, args.steps = rounds or ROUNDS.get(suite, 2), steps or STEPS.get(suite, 12)
        if suite in ALONE:
            reports[suite] = ALONE[suite].measure(args)
            ALONE[suite].show(reports[suite])
        else:
            found = measure(args, suite)
            reports[suite] = {
                "results": found,
                "ratios": ratios(suite, found),
                "shares": shares(args, suite, found),
            }
            show(suite, reports[suite])
        if args.json:  # After each: a suite that fails takes no other with it.
            args.json.write_text(json.dumps(reports, indent=1))


def part_of(args, suite, whole):
    """The collection that a suite's contenders read."""
    if suite == "refresh":
        return cut(whole, args.passages, args.work / "part")
    if suite in ("train", "asynchrony"):
        return pairs(whole, args.work / "pairs")
    return whole


def setting(args):
    ask, commit = ["git", "rev-parse", "HEAD"], ""
    if shutil.which("git"):  # Where only the programs were copied to there may be none.
        commit = subprocess.run(ask, stdout=subprocess.PIPE, text=True).stdout
    chosen = {name: str(value) for name, value in vars(args).items() if name not in ("work", "texts", "json")}
    return {**chosen, "commit": commit.strip(), "machine": machine(), "bf16": NATIVE}


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
