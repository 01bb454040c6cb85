"""Memory and time of every program against the number of passages, and of a merge against
the number of questions.

    scripts/bench size [--smallest N] [--passages N] [--questions N] [--work DIR] [--json FILE]

Sizes are --smallest (10,000), ten times that and so on up to --passages. Each is generated (generated.py)
and taken through `quarry prepare`, BM25, some steps of training, a generation mined with
the checkpoint and the swap to it, by the programs as `quarry run` starts them, with a stub
encoder (stub.py). Then the merge of --questions questions over eight partitions, and of a
half, a quarter and an eighth as many, from generated candidates, 200 of each partition
(inferencer/examples/merge.rs). 10,000,000 passages need 15 GB of disk and, on two cores, a quarter of an hour.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import time
from bisect import bisect
from datetime import datetime, timezone
from pathlib import Path

import generated
import stub
from memory import Watch
from quarry import BIN

# Steps between checkpoints; a generation is due after as many. A run sees two, the first
# mined with the untouched model.
EVERY = 4
PARTITIONS, SHARD = 8, 2_500
ENCODER = {
    "model.query_length": 32,
    "model.passage_length": 64,
    "train.passage_length": 64,
    "model.precision": '"f32"',
    "model.pooling": '"mean"',
    "model.normalize": "true",
    "data.language": '"english"',
}


def prepare(args, name, settings):
    """`quarry prepare` of the collection called `name`: seconds and memory."""
    store = args.work / f"{name}-store"
    shutil.rmtree(store, ignore_errors=True)
    command = [
        args.bin / "quarry", "prepare", "--data", args.work / name, "--model", args.work / "stub",
        "--store", store, "--recipe", "recipes/ance.toml",
    ]  # fmt: skip
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    start = time.perf_counter()
    child = launch(command, args.work / f"{name}-prepare.log")
    with Watch(prepare=child) as watch:
        child.wait()
    if child.returncode != 0:
        raise SystemExit(f"bench: prepare failed, see {args.work / name}-prepare.log")
    return store, {"prepare_seconds": time.perf_counter() - start, "memory": watch.peaks}


def launch(command, log, output=subprocess.DEVNULL):
    # Threads of libtorch that wait must not spin: the programs share the cores.
    return subprocess.Popen(
        [str(part) for part in command], env=os.environ | {"OMP_WAIT_POLICY": "passive"},
        stdout=output, stderr=open(log, "w", encoding="utf-8"),
    )  # fmt: skip


@contextlib.contextmanager
def fleet(args, store, name):
    """A coordinator and an inferencer on the store; stopped at the end."""
    port = store / "port"
    log = {role: args.work / f"{name}-{role}.log" for role in ("coordinator", "inferencer")}
    running = [
        launch(
            [args.bin / "quarry-coordinator", "--store", store, "--port-file", port],
            log["coordinator"],
        )
    ]
    try:
        while not port.exists():
            alive(running[0])
            time.sleep(0.1)
        url = f"http://{port.read_text().strip()}"
        # Logs tell the end and the duration of each task.
        running.append(
            launch(
                [
                    args.bin / "quarry-inferencer", "--coordinator", url, "--store", store,
                    "--threads", str(args.threads), "--cache", store / "cache", "--log-json",
                    "--device", "cpu",
                ],
                log["inferencer"],
            )
        )  # fmt: skip
        yield url, *running, log["inferencer"]
    finally:
        for child in reversed(running):
            if child.poll() is None:
                child.terminate()
                child.wait()


def alive(child):
    if child.poll() is not None:
        raise SystemExit(f"bench: {child.args[0]} has ended, see its log")


def passages(args, many):
    """The whole run over `many` passages."""
    name = f"passages-{many}"
    generated.write(args.work / name, many, args.trained, args.seed)
    settings = {
        "data.shard_passages": 4096,
        "train.max_steps": 2 * EVERY + 2,
        "train.checkpoint_every": EVERY,
        "refresh.every_steps": EVERY,
        # The trainer waits for the generation of its checkpoint, so the swap is measured.
        "refresh.max_staleness": 2 * EVERY - 1,
        "refresh.on_stale": '"block"',
        "fleet.trainer_threads": args.threads,
    } | ENCODER
    store, found = prepare(args, name, settings)
    shutil.rmtree(args.work / name)
    with fleet(args, store, name) as (url, coordinator, inferencer, log):
        trainer = launch(
            [
                args.bin / "quarry-trainer", "--coordinator", url, "--store", store,
                "--cache", store / "trainer-cache", "--device", "cpu",
            ],
            args.work / f"{name}-trainer.log",
        )  # fmt: skip
        everybody = {"coordinator": coordinator, "inferencer": inferencer, "trainer": trainer}
        try:
            with Watch(**everybody) as watch:
                while trainer.poll() is None:
                    alive(coordinator)
                    if inferencer.poll():  # 0 at the end of the run
                        alive(inferencer)
                    time.sleep(0.2)
        finally:
            if trainer.poll() is None:
                trainer.terminate()
        if trainer.returncode != 0:
            raise SystemExit(f"bench: the trainer failed, see {args.work / name}-trainer.log")
    found["memory"] |= watch.peaks
    shutil.rmtree(store)
    return found | {"passages": many, "tasks": tasks(log, watch.series["inferencer"])}


def questions(args, many):
    """The merge of `many` questions over eight partitions, and what preparing them took."""
    name = f"questions-{many}"
    generated.write(args.work / name, PARTITIONS * SHARD, many, args.seed)
    settings = {"data.shard_passages": SHARD, "data.block_queries": args.block} | ENCODER
    store, found = prepare(args, name, settings)
    shutil.rmtree(args.work / name)
    printed = args.work / f"{name}-merge.json"
    with open(printed, "w", encoding="utf-8") as output:
        command = [args.bin / "examples/merge", store, PARTITIONS]
        child = launch(command, args.work / f"{name}-merge.log", output)
        with Watch(merge=child) as watch:
            child.wait()
    if child.returncode != 0:
        raise SystemExit(f"bench: the merge failed, see {args.work / name}-merge.log")
    merged = json.loads(printed.read_text(encoding="utf-8"))
    found["memory"] |= watch.peaks
    shutil.rmtree(store)
    merging = {
        "tasks": merged["blocks"],
        "seconds": merged["seconds"],
        "RssAnon": watch.peaks["merge"]["RssAnon"],
    }
    return found | {"questions": many, "tasks": {"merge block": merging}}


def tasks(log, series):
    """Of each kind of task: how many, their seconds, and the highest RssAnon meanwhile."""
    found = {}
    for line in open(log, encoding="utf-8"):
        record = json.loads(line)
        fields = record.get("fields", record)
        if fields.get("message") != "task done":
            continue
        end = datetime.fromisoformat(record["timestamp"]).astimezone(timezone.utc).timestamp()
        kind = " ".join(fields["work"].split()[:2])
        start = end - fields["seconds"]
        first, last = (bisect(series, (at, 0)) for at in (start, end))
        during = [size for _, size in series[first:last]]
        of_kind = found.setdefault(kind, {"tasks": 0, "seconds": 0.0, "RssAnon": 0})
        of_kind["tasks"] += 1
        of_kind["seconds"] += fields["seconds"]
        of_kind["RssAnon"] = max([of_kind["RssAnon"], *during])
    return found


MIB = 1 << 20


def show(title, rows, counted):
    """A table of the highest RssAnon of each program in MiB, and of seconds."""
    print(f"\n{title}: highest RssAnon in MiB (VmHWM, with mapped files)")
    programs = list(rows[0]["memory"])
    print(f"{counted:>12}" + "".join(f"{name:>18}" for name in programs))
    for row in rows:
        peaks = [row["memory"][name] for name in programs]
        cells = (f"{p['RssAnon'] / MIB:9.1f} ({p['VmHWM'] / MIB:6.1f})" for p in peaks)
        print(f"{row[counted]:12,}" + "".join(f"{cell:>18}" for cell in cells))
    kinds = sorted({kind for row in rows for kind in row["tasks"]})
    print("seconds (of the inferencer: highest RssAnon in MiB meanwhile)")
    print(f"{counted:>12}{'prepare':>10}" + "".join(f"{kind:>20}" for kind in kinds))
    for row in rows:
        cells = [f"{row['prepare_seconds']:10.1f}"]
        for kind in kinds:
            of_kind = row["tasks"].get(kind, {"seconds": 0.0, "RssAnon": 0})
            cells.append(f"{of_kind['seconds']:11.1f} ({of_kind['RssAnon'] / MIB:6.1f})")
        print(f"{row[counted]:12,}" + "".join(cells))


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench size", description=__doc__)
    parser.add_argument("--passages", type=int, default=1_000_000, help="the largest size; 0 for none")
    parser.add_argument("--smallest", type=int, default=10_000, help="the smallest size")
    parser.add_argument("--questions", type=int, default=500_000, help="to merge; 0 for none")
    parser.add_argument("--trained", type=int, default=2_000, help="questions of each size")
    parser.add_argument("--block", type=int, default=4096, help="questions in a block of the merge")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", type=Path, default=Path(".deps/models/all-MiniLM-L6-v2"))
    parser.add_argument("--bin", type=Path, default=BIN)
    parser.add_argument("--work", type=Path, default=Path("target/bench/size"))
    parser.add_argument("--json", type=Path, help="file for every figure")
    args = parser.parse_args()
    stub.write(args.work / "stub", args.model)
    report = {"passages": [], "questions": []}
    many = args.smallest
    while many <= args.passages:
        report["passages"].append(passages(args, many))
        show("a run", report["passages"], "passages")
        many *= 10
    for part in (8, 4, 2, 1) if args.questions else ():
        report["questions"].append(questions(args, args.questions // part))
        show("a merge over eight partitions", report["questions"], "questions")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
