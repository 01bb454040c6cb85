"""Quarry's own contenders: its programs, as its users start them."""

import json
import os
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

BIN = Path(os.environ.get("CARGO_TARGET_DIR", "target")) / "debug"


def timed(command, log):
    """Runs to the end; wall seconds and standard output."""
    start = time.perf_counter()
    with open(log, "w", encoding="utf-8") as errors:
        child = subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.PIPE, stderr=errors, text=True
        )
        printed = child.stdout.read()
        if child.wait() != 0:
            raise SystemExit(f"bench: {command[0]} failed, see {log}")
    return time.perf_counter() - start, printed


def encode(args, dtype):
    _, printed = timed(
        [
            BIN / "quarry", "encode", "--model", args.model, "--input", args.texts,
            "--output", args.work / f"quarry-{dtype}.safetensors", "--dtype", dtype,
            "--threads", args.threads, "--device", args.device, "--json",
        ],
        args.work / "encode.log",
    )  # fmt: skip
    return json.loads(printed)


def refresh(args, form):
    """Generation 1, mined with the untouched model by one inferencer, or by as many as `form`
    says behind its dtype, which share the threads; no trainer runs. From opened to published:
    the collection was tokenised once, by `quarry prepare`."""
    dtype, _, workers = form.partition(":")
    workers = int(workers or 1)
    store = args.work / "refresh"
    shutil.rmtree(store, ignore_errors=True)
    log = args.work / "refresh.log"
    prepare, _ = timed(
        [
            BIN / "quarry", "prepare", "--data", args.data, "--model", args.model,
            "--store", store, "--recipe", "recipes/ance.toml",
            "--set", f'model.precision="{dtype}"',
        ],
        log,
    )  # fmt: skip
    port = store / "port"
    coordinator = subprocess.Popen(
        [BIN / "quarry-coordinator", "--store", store, "--port-file", port],
        stderr=open(args.work / "coordinator.log", "w", encoding="utf-8"),
    )
    logs = [args.work / f"inferencer-{i}.log" for i in range(workers)]
    fleet = []
    try:
        while not port.exists():
            alive(coordinator, args.work)
            time.sleep(0.1)
        url = f"http://{port.read_text().strip()}"
        for worker, log in enumerate(logs):
            fleet.append(inferencer(args, url, store, worker, args.threads // workers, log))
        generation = dense_generation(url, args.work, fleet)
    finally:
        for child in (*fleet, coordinator):
            child.terminate()
            child.wait()
    encoding = sum(encoding_seconds(log) for log in logs)
    return {
        "seconds": generation["seconds"],
        "encoding": encoding,
        "workers": workers,
        "prepare": prepare,
        "texts": 1,
    }


def inferencer(args, url, store, worker, threads, log):
    return subprocess.Popen(
        [
            BIN / "quarry-inferencer", "--coordinator", url, "--store", store,
            "--threads", str(threads), "--cache", store / f"cache-{worker}",
            "--log-json",
        ],
        stderr=open(log, "w", encoding="utf-8"),
    )  # fmt: skip


def encoding_seconds(log):
    """Of the tasks that run the encoder, by the log of an inferencer."""
    total = 0.0
    for line in open(log, encoding="utf-8"):
        record = json.loads(line)
        fields = record.get("fields", record)
        if fields.get("message") == "task done" and fields["work"].startswith("encode"):
            total += fields["seconds"]
    return total


def alive(child, work):
    if child.poll() is not None:
        raise SystemExit(f"bench: {child.args[0]} has ended, see the logs in {work}")


def dense_generation(url, work, fleet):
    """The first generation mined with a model, once it is published."""
    # By the coordinator's log: each start of `quarry` loads libtorch, which takes a quarter of a
    # second of a core, and once a second that was a tenth of what is timed here.
    log = work / "coordinator.log"
    while not re.search(r"generation published generation=1\b", log.read_text(encoding="utf-8")):
        for inferencer in fleet:
            alive(inferencer, work)
        time.sleep(0.5)
    _, printed = timed(
        [BIN / "quarry", "generations", "--coordinator", url, "--json"], work / "wait.log"
    )
    return next(g for g in json.loads(printed)["generations"] if g["kind"] == "dense")


def train(args, dtype):
    """Steps of a run whose fleet has nothing to do once generation 0 is there."""
    found = steps_of(args, {
        "train.precision": f'"{dtype}"',
        "train.checkpoint_every": 1000,
        "refresh.when": '"never"',
        "fleet.trainer_threads": args.threads,
    }, Trainer(args.work / "train"))  # fmt: skip
    steps = found.pop("steps")
    counted = steps[args.warmup :]
    return {
        **found,
        "seconds": sum(step["step_ms"] for step in counted) / 1000,
        "texts": 32 * len(counted),
        "idle": sum(step["idle_ms"] for step in counted) / 1000,
        "losses": [step["loss"] for step in steps],
    }


def steps_of(args, settings, watch):
    """A run of `--steps` steps in the folder that `watch` follows: its lines of losses, the
    trainer's peak memory, and its slowest swap."""
    store = watch.store
    shutil.rmtree(store, ignore_errors=True)
    settings = {
        "seed": args.seed,
        "train.max_steps": args.steps,
        "train.batch_size": 32,
        "train.passage_length": args.length,
        "train.negatives": 0,
        "refresh.on_stale": '"off"',
        "fleet.worker_threads": 1,
        **settings,
    }
    command = [
        BIN / "quarry", "run", "recipes/ance.toml", "--data", args.data,
        "--model", args.model, "--store", store,
    ]  # fmt: skip
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    watch.start()
    timed(command, args.work / "train.log")
    watch.done.set()
    watch.join()
    lines = open(store / "losses.jsonl", encoding="utf-8")
    found = {"steps": [json.loads(line) for line in lines], "peak_mib": watch.peak_mib}
    trainer = (store / "logs" / "trainer.log").read_text(encoding="utf-8")
    if swaps := [float(ms) for ms in re.findall(r"switched negatives.* swap_ms=([\d.]+)", trainer)]:
        found["slowest_swap_ms"] = max(swaps)
    return found


class Trainer(threading.Thread):
    """Follows the trainer of a run: its peak memory."""

    def __init__(self, store, every=0.2):
        super().__init__(daemon=True)
        self.store, self.every, self.done, self.peak_mib = store, every, threading.Event(), 0.0

    def run(self):
        while not self.done.wait(self.every):
            self.round()

    def round(self):
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_text(encoding="utf-8", errors="replace")
                command = words.split("\0")
                if any(str(self.store) in part for part in command):
                    self.look(process, command)
            except OSError:
                continue  # It has ended.

    def look(self, process, command):
        """At a program of the run."""
        if Path(command[0]).name == "quarry-trainer":
            status = (process / "status").read_text(encoding="utf-8")
            peak = re.search(r"VmHWM:\s+(\d+) kB", status)
            self.peak_mib = max(self.peak_mib, int(peak[1]) / 1024 if peak else 0)
