"""Makes the polynomials of crates/torch-ext/shim/lanes.h and shows how far off 2^t is.

    python scripts/reference/power_fit.py        (numpy)

2^f on [-1/2, 1/2] with the least largest relative error, by Lawson's reweighted least
squares; 2^0 is 1, so that equal scores have weights of 1. Evaluated in f32, with one rounding
for a product and its sum, as the kernel does where the processor can.
"""

import numpy as np

DEGREES = {"bfloat16": 3, "float": 6}


def fit(degree):
    f = 0.5 * np.cos(np.linspace(0, np.pi, 4001))
    f = f[np.abs(f) > 1e-4]
    # Without the constant, relative to 2^f.
    rows = np.stack([f**k for k in range(1, degree + 1)], axis=1) / np.exp2(f)[:, None]
    target, weights = 1.0 - np.exp2(-f), np.ones(len(f))
    for _ in range(1000):
        root = np.sqrt(weights)
        found = np.linalg.lstsq(rows * root[:, None], target * root, rcond=None)[0]
        error = np.abs(rows @ found - target)
        weights = weights * np.sqrt(error / error.max() + 1e-9)
        weights /= weights.max()
    return [1.0, *found]


def worst(coefficients):
    f = np.linspace(-0.5, 0.5, 200_001).astype(np.float32)
    p = np.full_like(f, np.float32(coefficients[-1]))
    for k in coefficients[-2::-1]:
        p = (p.astype(float) * f + np.float32(k)).astype(np.float32)
    return np.abs(p / np.exp2(f.astype(float)) - 1).max()


if __name__ == "__main__":
    for kind, degree in DEGREES.items():
        coefficients = fit(degree)
        print(kind, *(f"{k:.9e}" for k in coefficients), sep="\n")
        off = worst(coefficients)
        print(f"largest relative error: {off:.2e}, 2^{np.log2(off):.1f}")
