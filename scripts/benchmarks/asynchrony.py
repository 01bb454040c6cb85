"""A trainer on one core, and in turn nothing, a loop or a fleet on the other."""

import math
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import quarry
from goals import verdict

# Who has the second core in a turn. The neighbour adds numbers and touches no memory: it
# shows what the machine takes for any work there.
STATES = ("alone", "neighbour", "refreshing")
# What is compared: the fleet with nobody, which is the goal, and with what any work takes.
PAIRS = (("neighbour", "alone"), ("refreshing", "alone"), ("refreshing", "neighbour"))
# Steps of a turn, of which one writes a checkpoint.
TURN = 4
# The goal: a step takes at most so many times as long beside a busy fleet.
LONGEST = 1.02
LOOP = [sys.executable, "-c", "x = 0\nwhile True: x += 1"]


def measure(args):
    """Rounds of one run each, and what all of them say."""
    rounds = []
    for turn in range(args.rounds):
        rounds.append(run(args, turn))
        for state in STATES:
            print(f"round {turn + 1} asynchrony {state:12} {rounds[-1]['pace'][state]:9.1f} pairs/s", file=sys.stderr)
    return {"rounds": rounds, "all": [{"of": pair, **compared(rounds, *pair)} for pair in PAIRS]}


def run(args, turn):
    """One run for all states, so that none meets another hour of the machine: after each TURN
    steps the second core goes to the next of STATES, by stopping and waking processes. The
    rounds have the same batches, and each begins with another state: after three every batch
    was a step in every state."""
    watch = Turns(args.work / "train", range(args.warmup, args.steps), first=turn)
    settings = {
        "train.checkpoint_every": TURN,
        "refresh.when": '"idle"',
        "fleet.trainer_threads": 1,
        "fleet.lease_seconds": 3600,  # A stopped worker sends no heartbeat and keeps its task.
    }
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {1})  # This program too: it looks around ten times a second.
    try:
        found = quarry.steps_of(args, settings, watch)
    finally:
        watch.leave()
        os.sched_setaffinity(0, before)
    if "slowest_swap_ms" not in found:
        raise SystemExit("bench: no generation was swapped in, give asynchrony more --steps")
    counted = found["steps"][args.warmup :]
    times = {state: [] for state in STATES}
    for first in range(0, len(counted), TURN):
        steps = [step["step_ms"] / 1000 for step in counted[first : first + TURN]]
        times[watch.state_of(counted[first]["step"])].append(statistics.mean(steps))
    return {
        "turns": times,
        "pace": {state: 32 / statistics.mean(turns) for state, turns in times.items()},
        "idle_share": sum(step["idle_ms"] for step in counted) / sum(step["step_ms"] for step in counted),
        "generations": len({step["generation"] for step in found["steps"]}),
        "slowest_swap_ms": found["slowest_swap_ms"],
        "fleet": watch.fleet_shares(),
    }


class Turns(quarry.Trainer):
    """Gives the trainer the first core, all other programs the second, and this to one state
    after the other. Steps are counted in the file of losses, which grows as they end."""

    def __init__(self, store, timed, first):
        super().__init__(store, every=0.1)
        self.losses, self.timed, self.first = store / "losses.jsonl", timed, first
        self.pinned, self.fleet, self.now = set(), set(), "refreshing"
        # Of each state: seconds, and processor seconds of the fleet.
        self.spent = {state: [0.0, 0.0] for state in STATES}
        self.since = None
        self.loop = subprocess.Popen(["taskset", "-c", "1", *LOOP])
        self.loop.send_signal(signal.SIGSTOP)

    def state_of(self, step):
        """The fleet works while a run begins, as it owes the first generation, and ends, as it
        is told to."""
        if step not in self.timed:
            return "refreshing"
        return STATES[((step - self.timed.start) // TURN + self.first) % len(STATES)]

    def round(self):
        super().round()
        if self.losses.exists():
            self.turn_to(self.state_of(self.losses.read_bytes().count(b"\n")))

    def look(self, process, command):
        super().look(process, command)
        trains = Path(command[0]).name == "quarry-trainer"
        for thread in (process / "task").iterdir():
            if thread.name not in self.pinned:
                os.sched_setaffinity(int(thread.name), {0 if trains else 1})
                self.pinned.add(thread.name)
        worker = int(process.name)
        if Path(command[0]).name == "quarry-inferencer" and worker not in self.fleet:
            self.fleet.add(worker)
            tell({worker}, self.now == "refreshing")

    def turn_to(self, state):
        if state == self.now:
            return
        now = (time.perf_counter(), sum(map(seconds_of, self.fleet)))
        if self.since:
            spent = self.spent[self.now]
            self.spent[self.now] = [a + b - c for a, b, c in zip(spent, now, self.since)]
        self.now, self.since = state, now
        tell({self.loop.pid}, state == "neighbour")
        tell(self.fleet, state == "refreshing")

    def fleet_shares(self):
        """Of the second core, which the fleet had in each state."""
        shares = {state: worked / seconds for state, (seconds, worked) in self.spent.items()}
        if shares["refreshing"] < 0.5 or max(shares["alone"], shares["neighbour"]) > 0.05:
            raise SystemExit(f"bench: the fleet did not work in its turns alone: {shares}")
        return shares

    def leave(self):
        """Whatever happens: a stopped fleet could not end."""
        self.done.set()
        if self.is_alive():
            self.join()
        tell(self.fleet, True)
        self.loop.kill()
        self.loop.wait()


def tell(processes, work):
    for process in processes:
        try:
            os.kill(process, signal.SIGCONT if work else signal.SIGSTOP)
        except ProcessLookupError:
            continue  # It has ended.


def seconds_of(process):
    """Processor time it has taken."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def compared(rounds, state, base):
    """How many times as long a step takes in `state` as in `base`: the geometric mean over the
    turns of all rounds, in which batches cancel out after three, and its standard error, by
    the turns that lie at one place of all rounds."""

    def logs_of(round):
        pairs = zip(round["turns"][base], round["turns"][state])
        return [math.log(busy / idle) for idle, busy in pairs]

    logs = [statistics.mean(place) for place in zip(*map(logs_of, rounds))]
    error = statistics.stdev(logs) / len(logs) ** 0.5 if len(logs) > 1 else math.nan
    return {"times": math.exp(statistics.mean(logs)), "error": error}


def show(found):
    print("\nasynchrony")
    rounds = found["rounds"]

    def line(label, form, values, goal=""):
        print(f"  {label:48}{'  '.join(f'{value:{form}}' for value in values)}   {goal}".rstrip())

    for state in STATES:
        line(f"{state}, pairs/s", "8.1f", [r["pace"][state] for r in rounds])
    for key, label, form, most in (
        ("slowest_swap_ms", "the slowest swap, ms", "8.1f", 50),
        ("idle_share", "waiting for data", "8.3%", 0.01),
    ):
        values = [r[key] for r in rounds]
        line(label, form, values, verdict(values, most, True))
    line("generations in use", "8d", [r["generations"] for r in rounds])
    line("the fleet's share of its core in its turns", "8.1%", [r["fleet"]["refreshing"] for r in rounds])
    for all_rounds in found["all"]:
        state, base = all_rounds["of"]
        each = [compared([r], state, base)["times"] for r in rounds]
        line(f"a step while {state}, times one {base}", "8.3f", each)
        # Fewer rounds, or others than threes, compare batches with other batches.
        judged = (state, base) == ("refreshing", "alone") and len(rounds) % len(STATES) == 0
        goal = verdict([all_rounds["times"]], LONGEST, True) if judged else ""
        line("  all rounds, and standard error", "8.3f", [all_rounds["times"], all_rounds["error"]], goal)
