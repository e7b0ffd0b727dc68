"""The bounds that source/maths.h states, against double precision by scipy, over floats of every size."""

import numpy as np
import pytest
from scipy.special import erf

from serve.engine.library import apply, paths
from tests.serve.engine.networks import PATHS

GELU, GELU_TANH, RELU, TANH, EXP2 = range(1, 6)


def floats() -> np.ndarray:
    """A fine grid where the functions bend, every power of two of a float, and what lies between."""
    fine = np.linspace(-12, 12, 400_000)
    powers = 2.0 ** np.arange(-126, 128)
    random = np.random.default_rng(0).normal(size=2000) * 10.0 ** np.random.default_rng(1).integers(-6, 6, 2000)
    found = np.concatenate([fine, powers, -powers, random, [0.0, -0.0]]).astype(np.float32)
    return np.pad(found, (0, -len(found) % 16))


def close(x: np.ndarray, y: np.ndarray, exact: np.ndarray, bound: np.ndarray) -> None:
    worst = np.argmax(np.abs(y - exact) / bound)
    assert np.abs(y - exact)[worst] <= bound[worst], (x[worst], y[worst], exact[worst])


@pytest.mark.parametrize("path", PATHS)
def test_functions_keep_their_bounds(path: str) -> None:
    if not paths().get(path):
        pytest.skip(f"this processor has no path {path}")
    x = floats()
    wide = x.astype(np.float64)
    with np.errstate(over="ignore"):
        approximate = 0.5 * wide * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)))
    for what, exact in ((GELU, 0.5 * wide * (1 + erf(wide / np.sqrt(2)))), (GELU_TANH, approximate)):
        bound = np.where(np.abs(wide) < 2.5, 2.5e-5, 2.5e-4) + 1e-6 * np.abs(wide)
        close(x, apply(what, x, path=path), exact, bound)
    close(x, apply(TANH, x, path=path), np.tanh(wide), np.full(len(x), 4e-6))
    np.testing.assert_array_equal(apply(RELU, x, path=path), np.maximum(x, 0))
    some = x[np.abs(x) < 120]
    some = some[: len(some) // 16 * 16]
    exact = np.exp2(some.astype(np.float64))
    close(some, apply(EXP2, some, path=path), exact, 4e-6 * exact)
    below = np.full(16, -1e30, np.float32)
    np.testing.assert_allclose(apply(EXP2, below, path=path), 2.0**-120, rtol=4e-6)
