"""What each suite times, and what it promises: contenders, and ratios with their goals."""

# Contenders, and ratios: ours, theirs, the goal.
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
        # The second with two workers on the same threads.
        ["quarry:bf16", "quarry:bf16:2", "refresh:f32", "refresh:bf16"],
        [
            ("quarry:bf16", "refresh:f32", 3.0),
            ("quarry:bf16:2", "refresh:f32", 3.0),
            ("quarry:bf16", "refresh:bf16", None),
        ],
    ),
    # The pace is of no interest here: --steps, and what a model knows after them.
    "curve": (["quarry:bf16", "train:bf16"], []),
    "train": (
        ["peak:bf16", "quarry:bf16", "quarry:f32", "train:bf16", "train:f32"],
        [("quarry:bf16", "train:bf16", 2.0), ("quarry:f32", "train:f32", 1.5)],
    ),
}  # fmt: skip
# Useful FLOP/s of the peak.
SHARES = {("encode", "bf16"): 0.80, ("encode", "f32"): 0.85, ("train", "bf16"): 0.55}


def has_bf16():
    """Whether the processor multiplies bf16 natively: where Quarry itself takes it."""
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return "avx512_bf16" in flags


def in_f32(suite):
    """A suite on a processor without products of bf16, where Quarry takes f32 by itself and
    its peers crawl: f32 in the place of bf16, whose goals nothing is held to."""
    contenders, ratios = suite
    plain = list(dict.fromkeys(f32(name) for name in contenders))
    goals = {}
    for ours, theirs, goal in ratios:
        pair = (f32(ours), f32(theirs))
        goals[pair] = goal if pair == (ours, theirs) else goals.get(pair)
    return plain, [(*pair, goal) for pair, goal in goals.items()]


def f32(contender):
    return contender.replace("bf16", "f32")
