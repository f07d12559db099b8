"""Does each law come back from simulated studies, and do its intervals hold?

    OMP_NUM_THREADS=1 python benchmarks/recovery.py [power kaplan …] [--studies 400] [--to FILE]

A study has two seeds of every x, over two to four decades along one axis, and a scatter of 2 % from
run to run. Its law is fitted as what it is, but for the last two rows, where the criterion of `fit`
chooses whether there is a floor: three seeds on five `num_train`, a floor that the scatter of 5 %
mostly hides, or none. Printed for each law: the largest error of a shape
parameter without noise; how often the 90 % interval held the exponents, the loss at four times the
range of each axis, and each other parameter of the studies whose fit declared it identified; and
along one axis how often the forecast that is averaged over all laws held a new measurement there.
Laws already in FILE (JSON) are not computed again.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np

from chemscale.desk.bootstrap import FittedLaw, fit_law, fit_sample
from chemscale.desk.forecast import extrapolate
from chemscale.desk.laws import ALONG, Law, bnsl
from chemscale.desk.solve import log_law
from chemscale.desk.surfaces import SURFACES, data_constrained

SCATTER, SEEDS, LEVEL = 0.02, 2, 0.9
LAWS = {law.name: law for law in (*ALONG, bnsl(2), *SURFACES, data_constrained)}
# Shape parameters; x counts from its largest value.
THETA = {
    "power": (0.4,),
    "shifted": (0.6, -3.0),
    "m4": (0.7, -2.5, 1.5),
    "broken": (0.2, 0.3, -2.0, 0.3),
    "bnsl-2": (0.05, 0.4, -6.0, 0.3, -0.3, -2.5, 0.3),
    "additive": (0.45, 0.35),
    "over-training": (0.4,),
    "kaplan": (0.5, 0.4, 0.5),
    "broken-in-data": (0.5, 0.15, 0.3, -2.0, 0.3),
    "data-constrained": (0.35, 0.35, 2.7, 1.7, 1.0, 1.0),
}
CHOSEN = {"fit-hidden-floor": 2.0, "fit-no-floor": 0.0}


def study(law: Law) -> np.ndarray:
    """Log x (n, K) of its cells, none above 0."""
    if law.num_axes == 1:
        decades, count = {"power": (2, 8), "bnsl-2": (4, 24)}.get(law.name, (3, 12))
        return np.log(np.geomspace(10.0**-decades, 1, count))[:, None]
    if law.num_axes == 2:
        grid = np.meshgrid(np.geomspace(1e-2, 1, 5), np.geomspace(1e-3, 1, 7))
        return np.log(np.stack([side.ravel() for side in grid], axis=1))
    sizes = amounts = np.geomspace(1e-2, 1, 4)
    return np.log([[n, u * e / 64, u / 64] for n in sizes for u in amounts for e in (1, 4, 16, 64)])


def sorted_breaks(law: Law, rows: np.ndarray) -> np.ndarray:
    """The breaks of a law with two of them may change places."""
    if law.name != "bnsl-2":
        return rows
    other = [*range(len(rows[0]) - 6), *np.arange(-3, 0), *np.arange(-6, -3)]
    return np.where((rows[:, -5] > rows[:, -2])[:, None], rows[:, other], rows)


def measured(law: Law, studies: int) -> dict[str, object]:
    """Fit so many studies of one law."""
    cells, theta = study(law), np.array([THETA[law.name]])
    log_x, cell = np.repeat(cells, SEEDS, axis=0), np.repeat(np.arange(len(cells)), SEEDS)
    last = np.stack(law.log_shapes(cells, theta), axis=-1)[0].max(axis=0)
    shares = np.array({1: [3.0], 2: [2.0, 1.0], 3: [2.0, 1.0, 0.3]}[law.num_shapes])
    # E = 1, and each term at most its share: like a loss that falls from a few nats to one
    truth = np.concatenate([[1.0], shares / np.exp(last), theta[0]])
    far = law.end(log_x)[None] + math.log(4)
    clean, ahead = (log_law(law, x, truth[None])[0] for x in (log_x, far))

    def fitted(log_y: np.ndarray, scatter: float, rng: np.random.Generator) -> FittedLaw:
        one = fit_law(law, log_x, log_y, cell, floor=True, seeds=(scatter, len(cells)), rng=rng)
        best, draws = sorted_breaks(law, one.best[None])[0], sorted_breaks(law, one.draws)
        return FittedLaw(law, one.origin, one.allowed, best, draws)

    exact = fitted(clean, 1e-9, np.random.default_rng(0)).best
    from_linear = 1 + law.num_shapes
    held: dict[str, list[bool]] = {}
    for number in range(studies):
        rng = np.random.default_rng([number, len(law.name), *law.name.encode()])
        log_y = clean + SCATTER * rng.standard_normal(len(clean))
        pairs = log_y.reshape(-1, SEEDS)
        scatter = math.sqrt(pairs.var(axis=1, ddof=1).mean())
        one = fitted(log_y, scatter, rng)
        for (name, quantity), value in zip(one.parameters(LEVEL).items(), truth, strict=True):
            if quantity.interval is not None:
                inside = quantity.interval.low <= value <= quantity.interval.high
                held.setdefault(name, []).append(inside)
        _, low, high = one.loss(far, LEVEL)
        held.setdefault("loss at 4 times the range", []).append(
            bool(low[0] <= math.exp(ahead[0]) <= high[0])
        )
        if law.num_axes == 1:
            told = extrapolate(np.exp(log_x), np.exp(log_y), np.exp(far), run=range(len(log_y)))
            new = math.exp(ahead[0] + SCATTER * rng.standard_normal())
            low, high = told.intervals[LEVEL]
            held.setdefault("averaged forecast", []).append(bool(low[0] <= new <= high[0]))
    error = np.abs(exact[from_linear:] - truth[from_linear:]).max()
    found = {name: [len(one), float(np.mean(one))] for name, one in held.items()}
    return {"studies": studies, "error": float(error), "held": found}


def chosen(floor: float, studies: int) -> dict[str, object]:
    """As `fit` does it along one axis, for a loss with this floor and an exponent of 0.4."""
    amounts = np.repeat([30.0, 100.0, 300.0, 1000.0, 3000.0], 3)
    cell, far, exponent = np.repeat(np.arange(5), 3), 12_000.0, 0.4
    held: dict[str, list[bool]] = {"exponent": [], "loss at 4 times the range": []}
    for number in range(studies):
        rng = np.random.default_rng(number)
        log_y = np.log(floor + 400 * amounts**-exponent) + 0.05 * rng.standard_normal(15)
        scatter = math.sqrt(log_y.reshape(-1, 3).var(axis=1, ddof=1).mean())
        one = fit_sample(
            np.log(amounts)[:, None], log_y, cell, floor=None, seeds=(scatter, 10), rng=rng
        )
        ahead = one.draws[:, 0] + one.draws[:, 1] * far ** -one.draws[:, 2]
        for name, draws, truth in (
            ("exponent", one.draws[:, 2], exponent),
            ("loss at 4 times the range", ahead, floor + 400 * far**-exponent),
        ):
            low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            held[name].append(bool(low <= truth <= high))
    return {"studies": studies, "held": {n: [len(o), float(np.mean(o))] for n, o in held.items()}}


def row(name: str, found: dict) -> str:
    """A row of the table."""
    held, studies = dict(found["held"]), found["studies"]

    def share(one: str) -> str:
        return f"{100 * held.pop(one)[1]:.0f}" if one in held else ""

    average, loss = share("averaged forecast"), share("loss at 4 times the range")
    exponents = ", ".join(share(one) for one in list(held) if one.endswith("exponent"))
    rest = ", ".join(
        f"{one} {100 * inside:.0f}" + f" (of {count})" * (count < studies)
        for one, (count, inside) in held.items()
    )
    error = f"{found['error']:.0e}" if "error" in found else ""
    return f"| {name} | {error} | {exponents} | {loss} | {rest} | {average} |"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("laws", nargs="*", default=[*LAWS, *CHOSEN], metavar="LAW")
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--to", type=Path)
    asked = parser.parse_args()
    known = json.loads(asked.to.read_text()) if asked.to and asked.to.exists() else {}
    print("| law | noise-free error | exponents | loss at 4× | other parameters | average |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in asked.laws:
        if known.get(name, {}).get("studies") != asked.studies:
            one = measured(LAWS[name], asked.studies) if name in LAWS else None
            known[name] = one or chosen(CHOSEN[name], asked.studies)
            if asked.to:
                asked.to.write_text(json.dumps(known, indent=1) + "\n")
        print(row(name, known[name]), flush=True)


if __name__ == "__main__":
    main()
