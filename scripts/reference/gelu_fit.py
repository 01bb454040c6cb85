"""Makes the polynomial of crates/torch-ext/shim/gelu.h and shows how far off its GELU is.

    python scripts/reference/gelu_fit.py        (numpy)

Phi(x) - 1/2 = x P(x^2) on [0, MOST] with the least largest error of x^2 P(x^2), by Lawson's
reweighted least squares, held to 1/2 at MOST. Evaluated in f32, as the kernel does.
"""

from math import erf, sqrt

import numpy as np
from numpy.polynomial import Polynomial, chebyshev

MOST, DEGREE = 4.25, 8


def fit():
    x = MOST * np.cos(np.linspace(0, np.pi / 2, 4000))
    x = x[x > 1e-3]
    exact = np.array([0.5 * erf(v / sqrt(2)) for v in x])
    basis = chebyshev.chebvander(2 * (x / MOST) ** 2 - 1, DEGREE)
    rows, target, weights = (x * x)[:, None] * basis, x * exact, np.ones(len(x))
    end = MOST * chebyshev.chebvander(np.array([1.0]), DEGREE)
    for _ in range(300):
        root = np.sqrt(weights)
        system = np.vstack([rows * root[:, None], 1e3 * end])
        found = np.linalg.lstsq(system, np.concatenate([target * root, [500.0]]), rcond=None)[0]
        error = np.abs(rows @ found - target)
        weights = weights * np.sqrt(error / error.max() + 1e-9)
        weights /= weights.max()
    return Polynomial(chebyshev.cheb2poly(found))(Polynomial([-1, 2 / MOST**2])).coef


def worst(coefficients):
    x = np.linspace(-8, 8, 200_001).astype(np.float32)
    c = np.clip(x, -np.float32(MOST), np.float32(MOST))
    p = np.full_like(c, np.float32(coefficients[-1]))
    for k in coefficients[-2::-1]:
        p = (p * (c * c) + np.float32(k)).astype(np.float32)
    exact = np.array([v * 0.5 * (1 + erf(v / sqrt(2))) for v in x.astype(float)])
    return np.abs(x * (c * p + np.float32(0.5)) - exact).max()


if __name__ == "__main__":
    coefficients = fit()
    print("\n".join(f"{k:.9e}" for k in coefficients))
    print(f"largest error of GELU in [-8, 8]: {worst(coefficients):.2e}")
