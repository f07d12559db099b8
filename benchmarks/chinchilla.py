"""The Chinchilla refit of Besiroglu et al. 2024, and its speed beside SciPy's L-BFGS-B.

    OMP_NUM_THREADS=1 python benchmarks/chinchilla.py DATA/chinchilla-epoch/chinchilla_svg.csv

240 points (the five highest losses dropped), Huber loss (delta 1e-3) of log loss, the 4,500 starts
of Hoffmann et al. 2022. Ours runs from all of them; SciPy, one start after another, from a sample,
the same for both its gradients, and its time is scaled up. Rounds alternate; times are of the
processor.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import time
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from chemscale.desk.bootstrap import fit_sample
from chemscale.desk.solve import Objective, refine
from chemscale.desk.surfaces import additive

PUBLISHED = {"E": 1.817, "A": 482.0, "B": 2085.0, "a": 0.348, "b": 0.366}
DELTA = 1e-3


def starts() -> np.ndarray:
    """(4500, 5) of log E, log A, log B, a, b."""
    axes = (
        np.arange(-1, 1.5, 0.5),
        np.arange(0, 30, 5),
        np.arange(0, 30, 5),
        np.arange(0, 2.5, 0.5),
        np.arange(0, 2.5, 0.5),
    )
    return np.array(list(itertools.product(*axes)), float)


def ours(begin: np.ndarray, log_x: np.ndarray, log_y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parameters (S, 5) as E, A, B, a, b, and objectives (S,)."""
    centre = log_x.mean(axis=0)
    linear = np.exp(begin[:, :3] - np.pad(begin[:, 3:] * centre, ((0, 0), (1, 0))))
    theta = np.concatenate([linear, begin[:, 3:]], axis=1)
    huber = Objective(additive, log_x - centre, log_y[None], np.ones((1, len(log_y))), True, DELTA)
    found = refine(huber, theta, steps=300)
    value = huber.value(found)
    found[:, 1:3] *= np.exp(found[:, 3:] * centre)
    return found, value


def objective(
    theta: np.ndarray, log_x: np.ndarray, log_y: np.ndarray, analytic: bool
) -> float | tuple[float, np.ndarray]:
    """The sum of Huber losses at log E, log A, log B, a, b; with its gradient if `analytic`."""
    log_n, log_d = log_x.T
    e, a, b, alpha, beta = theta
    terms = np.stack([np.full_like(log_n, e), a - alpha * log_n, b - beta * log_d])
    top = terms.max(axis=0)
    parts = np.exp(terms - top)
    total = parts.sum(axis=0)
    residual = top + np.log(total) - log_y
    size = np.minimum(np.abs(residual), DELTA)
    value = float((size * (np.abs(residual) - 0.5 * size)).sum())
    if not analytic:
        return value
    pull = np.clip(residual, -DELTA, DELTA) * parts / total
    return value, np.array([*pull.sum(axis=1), -pull[1] @ log_n, -pull[2] @ log_d])


def with_printed_b(
    best: np.ndarray, log_x: np.ndarray, log_y: np.ndarray
) -> tuple[np.ndarray, float]:
    """E, A, B, a, b and the objective where B is held at what is printed."""
    log_b = np.log(PUBLISHED["B"])

    def lowest(rest: np.ndarray) -> float:
        value = objective(np.insert(rest, 2, log_b), log_x, log_y, False)
        return 1e6 * float(value)  # type: ignore[arg-type]

    start = np.array([*np.log(best[:2]), *best[3:]])
    options = {"xatol": 1e-9, "fatol": 1e-9, "maxiter": 20_000, "maxfev": 20_000}
    found = minimize(lowest, start, method="Nelder-Mead", options=options)
    where = np.array([*np.exp(found.x[:2]), PUBLISHED["B"], *found.x[2:]])
    return where, 1e-6 * float(found.fun)


def scipy(begin: np.ndarray, log_x: np.ndarray, log_y: np.ndarray, analytic: bool) -> np.ndarray:
    """Objectives (S,) from one start after another."""
    asked = (log_x, log_y, analytic)
    options = {"maxiter": 10_000, "maxfun": 100_000, "ftol": 1e-10, "gtol": 1e-10}
    return np.array(
        [
            minimize(objective, one, asked, jac=analytic, method="L-BFGS-B", options=options).fun
            for one in begin
        ]
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--sample", type=int, default=45, help="starts for SciPy")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with asked.table.open() as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row["loss"]))[:240]
    log_x = np.log([[float(row["N"]), float(row["D"])] for row in rows])
    log_y = np.log([float(row["loss"]) for row in rows])
    begin = starts()
    some = begin[np.random.default_rng(0).permutation(len(begin))[: asked.sample]]
    seconds: dict[str, list[float]] = {"ours": [], "analytic": [], "differences": []}
    values: dict[str, np.ndarray] = {}
    for _ in range(asked.rounds):
        clock = time.process_time()
        found, values["ours"] = ours(begin, log_x, log_y)
        seconds["ours"].append(time.process_time() - clock)
        for name, analytic in (("analytic", True), ("differences", False)):
            clock = time.process_time()
            values[name] = scipy(some, log_x, log_y, analytic)
            spent = time.process_time() - clock
            seconds[name].append(spent * len(begin) / len(some))
    best = found[values["ours"].argmin()]
    held, above = with_printed_b(best, log_x, log_y)
    for words, where, value in (
        ("Optimum", best, values["ours"].min()),
        ("With the printed B", held, above),
    ):
        told = [
            f"{name} {one:.5g} ({one / PUBLISHED[name] - 1:+.2%})"
            for name, one in zip(("E", "A", "B", "a", "b"), where, strict=True)
        ]
        print(f"{words}: {', '.join(told)}; objective {value:.9f}\n")
    print("| | processor s, 4,500 starts | ours is faster by | starts that reach the optimum |")
    print("| --- | --- | --- | --- |")
    for name, times in seconds.items():
        ratio = np.median(np.array(times) / seconds["ours"])
        reached = np.mean(values[name] < values["ours"].min() * (1 + 1e-4))
        print(f"| {name} | {np.median(times):.1f} | {ratio:.1f} | {100 * reached:.0f} % |")
    clock = time.process_time()
    fit_sample(
        log_x, log_y, np.arange(len(log_y)), floor=True, seeds=None, rng=np.random.default_rng(0)
    )
    print(f"\nOne fit with 1,000 bootstraps: {time.process_time() - clock:.2f} s")


if __name__ == "__main__":
    main()
