"""How often is a step marked that should not be, and how large must a jump be to be marked?

Run it as `python -m benchmarks.step_outliers`. Learning curves of several shapes get normal noise
of the scores' standard error, and one step in the middle is moved by a number of standard errors.
"""

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from harness.analysis.steps import leaving

Values = NDArray[np.float64]

EVEN = np.linspace(1000, 20_000, 20)
DOUBLING = np.array([0, *2.0 ** np.arange(10), *np.linspace(1000, 143_000, 10).round()])
JUMPS = (4, 6, 8, 12, 20)  # standard errors


def _flat(steps: Values) -> Values:
    return np.zeros(len(steps))


def _power_law(steps: Values) -> Values:
    """A loss of 300 standard errors at the beginning that falls as a power law."""
    return np.asarray(300 * (1 + steps / steps[1]) ** -0.4)


def _sigmoid(steps: Values) -> Values:
    """Nothing, then all of the learning within a few steps, then nothing again."""
    places = np.log1p(steps)
    middle = places[len(places) // 2]
    return np.asarray(-200 / (1 + np.exp(-(places - middle) * 2)))


def _lasting_jump(steps: Values) -> Values:
    return np.where(np.arange(len(steps)) < len(steps) // 2, 50.0, 0.0)


def _valley(steps: Values) -> Values:
    """Falls, and rises again as the model overfits."""
    return 40 * np.linspace(-1, 1, len(steps)) ** 2


def _drop_and_rise(steps: Values) -> Values:
    """A fast drop, and a slow rise."""
    at = np.arange(len(steps))
    return np.where(at < 4, 100 - 25 * at, (at - 4) * 2.0)


SHAPES: dict[str, Callable[[Values], Values]] = {
    "flat": _flat,
    "power law": _power_law,
    "sigmoid": _sigmoid,
    "lasting jump": _lasting_jump,
    "valley": _valley,
    "drop and rise": _drop_and_rise,
}
NOISES = (0.3, 1.0, 3.0)  # of the values, in standard errors as their intervals state them


def marked(
    steps: Values, shape: Values, noise: float, jump: float, rng: np.random.Generator
) -> tuple[bool, bool]:
    """Whether the moved step of one simulated curve is marked, and whether any other one is."""
    values = shape + rng.normal(0, noise, len(steps))
    at = int(rng.integers(2, len(steps) - 2))
    values[at] += jump * noise * rng.choice((-1, 1))
    marks = leaving(steps, values, np.ones(len(steps)))
    return marks[at], any(mark for i, mark in enumerate(marks) if i != at)


def rates(
    steps: Values, shape: Values, noise: float, jump: float, curves: int
) -> tuple[float, float]:
    """Share of curves with the moved step marked, and with any other step marked."""
    rng = np.random.default_rng(0)
    found = [marked(steps, shape, noise, jump, rng) for _ in range(curves)]
    hits, others = zip(*found, strict=True)
    return sum(hits) / curves, sum(others) / curves


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--curves", type=int, default=2000)
    curves = parser.parse_args().curves
    print("curves with a false mark, %; noise in standard errors of the scores")
    print(f"{'steps':12}{'shape':16}" + "".join(f"{f'noise {noise}':>12}" for noise in NOISES))
    layouts = {f"{n} even": EVEN[:n] for n in (6, 8, 12, 20)} | {"20 doubling": DOUBLING}
    for layout, steps in layouts.items():
        for name, shape in SHAPES.items():
            found = [rates(steps, shape(steps), noise, 0, curves) for noise in NOISES]
            cells = "".join(f"{100 * (hit + other):12.1f}" for hit, other in found)
            print(f"{layout:12}{name:16}{cells}")
    print("\nmarked if one of 20 even steps is moved, %; in brackets: another one is marked, too")
    print(f"{'shape':16}{'noise':>6}" + "".join(f"{f'jump {jump}':>15}" for jump in JUMPS))
    for name in ("flat", "power law", "sigmoid"):
        for noise in (1.0, 3.0):
            found = [rates(EVEN, SHAPES[name](EVEN), noise, jump, curves) for jump in JUMPS]
            cells = "".join(f"{f'{100 * hit:.1f} ({100 * other:.1f})':>15}" for hit, other in found)
            print(f"{name:16}{noise:6}{cells}")


if __name__ == "__main__":
    main()
