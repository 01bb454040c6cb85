"""The coordinator before a thousand stub workers: what a generation costs it."""

import json
import subprocess
import sys

from goals import verdict
from quarry import BIN

TASKS = (1_000, 10_000, 100_000)
WORKERS = (10, 100, 1_000)
# A thousand workers, 100,000 tasks of 30 s, watched for so many seconds in the middle.
REAL_PACE = ["--workers", 1_000, "--tasks", 100_000, "--real-pace", 120]


def measure(args):
    """Every size of generation and fleet once, then the largest at the pace of life, in
    every round."""
    grid = [("whole", ["--workers", w, "--tasks", t]) for t in TASKS for w in WORKERS]
    found = {"whole": [], "real_pace": []}
    for kind, options in grid + [("real_pace", REAL_PACE)] * args.rounds:
        figures = run(args, options)
        found[kind].append(figures)
        size = f"{figures['tasks']} tasks, {figures['workers']} workers"
        print(f"coordinator {size:28} {figures['cpu_seconds']:8.2f} s", file=sys.stderr)
    return found


def run(args, options):
    command = [BIN / "examples" / "scale", "--coordinator", BIN / "quarry-coordinator"]
    command += ["--seed", args.seed, *options]
    log = args.work / "scale.log"
    with open(log, "w", encoding="utf-8") as errors:
        done = subprocess.run(
            [str(part) for part in command], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    if done.returncode != 0:
        raise SystemExit(f"bench: scale failed, see {log}")
    return json.loads(done.stdout)


def spread(milliseconds):
    p50, p99, most = (milliseconds[name] for name in ["p50", "p99", "max"])
    return f"{p50:.1f} ms (p99 {p99:.1f}, at most {most:.1f})"


def show(found):
    print("\ncoordinator")
    print("  tasks   workers  cpu s  us/task     MiB  idle p50, p99 ms   publish s  records  log MiB  snapshots MiB")
    for row in found["whole"]:
        # Of a thousand workers and tasks nobody gets a second one at once.
        idle = {name: "–" if ms is None else f"{ms:.1f}" for name, ms in row["idle_ms"].items()}
        log = row["log"]
        print(
            f"  {row['tasks']:<8}{row['workers']:<7}{row['cpu_seconds']:7.2f}"
            f"{row['cpu_seconds'] / row['tasks'] * 1e6:9.0f}{row['memory_mib']:8.0f}"
            f"{idle['p50']:>10} {idle['p99']:>8}{row['publish_seconds']:11.2f}"
            f"{log['records']:9}{log['bytes'] / 2**20:9.1f}{log['snapshot_bytes'] / 2**20:15.1f}"
        )
    for row in found["real_pace"]:
        rate = row["tasks_done"] / row["seconds"]
        print(
            f"  {row['workers']} workers at 30 s a task ({rate:.1f} tasks/s), half of {row['tasks']} done: "
            f"{100 * row['core_share']:.1f} % of a core; "
            f"a completion durable after {spread(row['complete_ms'])}, idle between two {spread(row['idle_ms'])}; "
            f"{row['log']['records']} records, {row['log']['snapshot_bytes'] / 2**20:.0f} MiB of snapshots"
        )
    shares = [row["core_share"] for row in found["real_pace"]]
    print(f"  share of a core at that pace: {verdict(shares, 0.10, True)}")
