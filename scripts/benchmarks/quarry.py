"""Quarry's own contenders: its programs, as its users start them."""

import json
import shutil
import subprocess
import time
from pathlib import Path

BIN = Path("target/debug")


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
            "--threads", args.threads, "--json",
        ],
        args.work / "encode.log",
    )  # fmt: skip
    found = json.loads(printed)
    return {"seconds": found["seconds"], "texts": found["texts"]}


def refresh(args, dtype):
    """Generation 1, mined with the untouched model by one inferencer; no trainer runs.
    From opened to published: the collection was tokenised once, by `quarry prepare`."""
    store = args.work / "refresh"
    shutil.rmtree(store, ignore_errors=True)
    log = args.work / "refresh.log"
    timed(
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
    inferencer = None
    try:
        while not port.exists():
            alive(coordinator, args.work)
            time.sleep(0.1)
        url = f"http://{port.read_text().strip()}"
        inferencer = subprocess.Popen(
            [
                BIN / "quarry-inferencer", "--coordinator", url, "--store", store,
                "--threads", str(args.threads), "--cache", store / "cache",
            ],
            stderr=open(args.work / "inferencer.log", "w", encoding="utf-8"),
        )  # fmt: skip
        generation = dense_generation(url, args.work, inferencer)
    finally:
        for child in (inferencer, coordinator):
            if child:
                child.terminate()
                child.wait()
    return {"seconds": generation["seconds"], "texts": 1}


def alive(child, work):
    if child.poll() is not None:
        raise SystemExit(f"bench: {child.args[0]} has ended, see the logs in {work}")


def dense_generation(url, work, inferencer):
    """The first generation mined with a model, once it is published."""
    while True:
        alive(inferencer, work)
        _, printed = timed(
            [BIN / "quarry", "generations", "--coordinator", url, "--json"], work / "wait.log"
        )
        for generation in json.loads(printed)["generations"]:
            if generation["kind"] == "dense":
                return generation
        time.sleep(1)


def train(args, dtype):
    """Steps of a run whose fleet has nothing to do once generation 0 is there."""
    store = args.work / "train"
    shutil.rmtree(store, ignore_errors=True)
    settings = {
        "seed": args.seed,
        "train.precision": f'"{dtype}"',
        "train.max_steps": args.steps,
        "train.batch_size": 32,
        "train.passage_length": args.length,
        "train.negatives": 0,
        "train.checkpoint_every": 1000,
        "refresh.when": '"never"',
        "refresh.on_stale": '"off"',
        "fleet.trainer_threads": args.threads,
        "fleet.worker_threads": 1,
    }
    command = [
        BIN / "quarry", "run", "recipes/ance.toml", "--data", args.data,
        "--model", args.model, "--store", store,
    ]  # fmt: skip
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    timed(command, args.work / "train.log")
    steps = [json.loads(line) for line in open(store / "losses.jsonl", encoding="utf-8")]
    counted = steps[args.warmup :]
    return {
        "seconds": sum(step["step_ms"] for step in counted) / 1000,
        "texts": 32 * len(counted),
        "idle": sum(step["idle_ms"] for step in counted) / 1000,
    }


