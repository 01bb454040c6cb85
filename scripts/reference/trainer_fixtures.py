#!/usr/bin/env python3
"""Writes trainer/tests/data/*.json: what the trainer must agree with.

Learning rates come from Hugging Face transformers, AdamW steps from
torch.optim.AdamW, batches from an independent implementation below (SHA-256
keys, ChaCha8, Lemire's bounded integers, Fisher-Yates).

    pip install torch==2.11.0 transformers
    python scripts/reference/trainer_fixtures.py
"""

import hashlib
import json
import math
import pathlib
import struct

OUT = pathlib.Path(__file__).resolve().parents[2] / "trainer" / "tests" / "data"
MASK = 0xFFFFFFFF


def chacha8_words(key):
    """The keystream of ChaCha8, 64-bit counter from 0 and zero nonce, as u32."""
    quarters = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
                (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
    counter = 0
    while True:
        state = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *struct.unpack("<8I", key),
                 counter & MASK, counter >> 32, 0, 0]
        x = list(state)
        for _ in range(4):
            for a, b, c, d in quarters:
                for p, q, r, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                    x[p] = (x[p] + x[q]) & MASK
                    y = x[r] ^ x[p]
                    x[r] = ((y << turn) | (y >> (32 - turn))) & MASK
        yield from ((a + b) & MASK for a, b in zip(x, state))
        counter += 1


class Stream:
    def __init__(self, seed, purpose, a, b):
        digest = hashlib.sha256(purpose.encode() + b"\0" + struct.pack("<3Q", seed, a, b))
        self.words = chacha8_words(digest.digest())

    def u64(self):
        low = next(self.words)
        return low | next(self.words) << 32

    def below(self, n):
        product = self.u64() * n
        threshold = (2**64 - n) % n
        while product % 2**64 < threshold:
            product = self.u64() * n
        return product >> 64

    def shuffle(self, items):
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]

    def sample(self, items, count):
        pool = list(items)
        count = min(count, len(pool))
        for at in range(count):
            other = at + self.below(len(pool) - at)
            pool[at], pool[other] = pool[other], pool[at]
        return pool[:count]


def orders(seed, queries, batch, epochs):
    """Each epoch's permutation, mended where a batch straddles two of them."""
    previous = None
    for epoch in range(epochs):
        order = list(range(queries))
        Stream(seed, "query-order", epoch, 0).shuffle(order)
        tail = epoch * queries % batch
        if previous is not None and tail:
            head, taken = batch - tail, set(previous[queries - tail:])
            free = head
            for at in range(head):
                if order[at] in taken:
                    while order[free] in taken:
                        free += 1
                    order[at], order[free] = order[free], order[at]
                    free += 1
        yield order
        previous = order


def batches():
    """10 queries with one or two positives and 5 + query mined negatives."""
    seed, queries, size, negatives, steps = 13, 10, 4, 2, 8
    positives = [[q] if q % 3 else [q, 50 + q] for q in range(queries)]
    mined = [[100 + (7 * q + 3 * i) % 40 for i in range(5 + q)] for q in range(queries)]
    stream = [q for order in orders(seed, queries, size, 4) for q in order]
    golden = []
    for step in range(steps):
        groups = []
        for query in stream[step * size:(step + 1) * size]:
            several = positives[query]
            at = 0 if len(several) == 1 else Stream(seed, "positive", step, query).below(len(several))
            drawn = Stream(seed, "negatives", step, query).sample(mined[query], negatives)
            groups.append([query, several[at], *drawn])
        golden.append(groups)
    return {"seed": seed, "queries": queries, "batch_size": size, "negatives": negatives,
            "positives": positives, "mined": mined, "steps": golden}


def schedules():
    import torch
    import transformers as hf
    cases = []
    for shape, ratio, total in (("linear", 0.1, 25), ("cosine", 0.1, 25), ("constant", 0.1, 25),
                                ("linear", 0.0, 7), ("cosine", 0.5, 10), ("linear", 1.0, 5)):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2e-5)
        warmup = math.ceil(ratio * total)
        build = {"linear": lambda: hf.get_linear_schedule_with_warmup(optimizer, warmup, total),
                 "cosine": lambda: hf.get_cosine_schedule_with_warmup(optimizer, warmup, total),
                 "constant": lambda: hf.get_constant_schedule_with_warmup(optimizer, warmup)}
        schedule = build[shape]()
        rates = []
        for _ in range(total):
            rates.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        cases.append({"shape": shape, "warmup_ratio": ratio, "total": total, "rates": rates})
    return {"peak": 2e-5, "cases": cases}


def adamw():
    """Three steps, one decayed and one undecayed parameter, gradients clipped to 1."""
    import torch
    torch.manual_seed(0)
    weight = torch.randn(3, 2, requires_grad=True)
    bias = torch.randn(2, requires_grad=True)
    groups = [{"params": [weight], "weight_decay": 0.1}, {"params": [bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.98), eps=1e-6)
    start = [weight.detach().flatten().tolist(), bias.detach().tolist()]
    steps = []
    for step in range(3):
        weight.grad, bias.grad = torch.randn(3, 2) * (step + 0.2), torch.randn(2)
        grads = [weight.grad.flatten().tolist(), bias.grad.tolist()]
        norm = torch.nn.utils.clip_grad_norm_([weight, bias], 1.0).item()
        optimizer.step()
        steps.append({"grads": grads, "norm": norm,
                      "params": [weight.detach().flatten().tolist(), bias.detach().tolist()]})
    return {"start": start, "steps": steps}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for name, values in (("batches", batches()), ("schedules", schedules()), ("adamw", adamw())):
        (OUT / f"{name}.json").write_text(json.dumps(values, indent=None) + "\n")


if __name__ == "__main__":
    main()
