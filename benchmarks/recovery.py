"""Does each law come back from simulated studies, and do its intervals hold?

    OMP_NUM_THREADS=1 python benchmarks/recovery.py [power kaplan …] [--studies 400] [--to FILE]

A study has two seeds of every x, over two to four decades along one axis, and a scatter of 2 % from
run to run. Its law is fitted as what it is, but for the last two rows, where the criterion of `fit`
chooses whether there is a floor: three seeds on five `num_train`, a floor that the scatter of 5 %
mostly hides, or none. Printed for each law: the largest error of a shape
parameter without noise; how often the 90 % interval held the loss at four times the
range of each axis, the exponents, and each other parameter, of the studies whose fit declared it
identified; and along one axis how often the forecast that is averaged over all laws held a new
measurement there. The two slowest laws get a quarter of the studies. Those already in
FILE (JSON) are not computed again, and all of them count.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np

from chemscale.desk.bootstrap import fit_sample
from chemscale.desk.forecast import extrapolate
from chemscale.desk.laws import ALONG, Law, bnsl
from chemscale.desk.profile import FittedLaw, fit_law
from chemscale.desk.solve import log_law
from chemscale.desk.surfaces import SURFACES

SCATTER, SEEDS, LEVEL = 0.02, 2, 0.9
LAWS = {law.name: law for law in (*ALONG, bnsl(2), *SURFACES)}
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
    "width-depth": (0.5, 0.7, 0.35),
    "data-constrained": (0.35, 0.35, 2.7, 1.7, 1.0, 1.0),
    "broken-in-data": (0.5, 0.15, 0.3, -2.0, 0.3),
    "over-training-broken-in-data": (0.25, 0.3, -2.0, 0.3),
    "kaplan-broken-in-data": (0.5, 0.2, 0.3, -2.0, 0.3, 0.5),
    "width-depth-broken-in-data": (0.5, 0.7, 0.15, 0.3, -2.0, 0.3),
    "data-constrained-broken-in-data": (0.35, 0.2, 0.3, -2.0, 0.3, 2.7, 1.7, 1.0, 1.0),
}
SLOW = ("width-depth-broken-in-data", "data-constrained-broken-in-data")
AHEAD, AVERAGE = "loss at 4 times the range", "averaged forecast"
CHOSEN = {"fit-hidden-floor": 2.0, "fit-no-floor": 0.0}


def study(law: Law) -> np.ndarray:
    """Log x (n, K) of its cells, none above 0."""
    if law.num_axes == 1:
        decades, count = {"power": (2, 8), "bnsl-2": (4, 24)}.get(law.name, (3, 12))
        return np.log(np.geomspace(10.0**-decades, 1, count))[:, None]
    if law.num_axes == 2:
        grid = np.meshgrid(np.geomspace(1e-2, 1, 5), np.geomspace(1e-3, 1, 7))
        return np.log(np.stack([side.ravel() for side in grid], axis=1))
    if not law.tied:
        axes = np.geomspace(1e-1, 1, 4), np.geomspace(1e-1, 1, 4), np.geomspace(1e-3, 1, 7)
        return np.log(np.stack([side.ravel() for side in np.meshgrid(*axes)], axis=1))
    sizes = amounts = np.geomspace(1e-2, 1, 4)
    return np.log([[n, u * e / 64, u / 64] for n in sizes for u in amounts for e in (1, 4, 16, 64)])


class Simulated:
    """Studies of one law."""

    def __init__(self, name: str):
        """Lay out its cells, and what is true in them and ahead."""
        self.law = law = LAWS[name]
        cells, theta = study(law), np.array([THETA[name]])
        self.log_x = np.repeat(cells, SEEDS, axis=0)
        self.cell = np.repeat(np.arange(len(cells)), SEEDS)
        last = np.stack(law.log_shapes(cells, theta), axis=-1)[0].max(axis=0)
        shares = np.array(
            {1: [3.0], 2: [2.0, 1.0], 3: [2.0, 1.0, 0.3 if law.tied else 1.0]}[law.num_shapes]
        )
        # E = 1, and each term at most its share: like a loss that falls from a few nats to one
        self.truth = np.concatenate([[1.0], shares / np.exp(last), theta[0]])
        self.far = law.end(self.log_x)[None] + math.log(4)
        self.clean, ahead = (log_law(law, x, self.truth[None])[0] for x in (self.log_x, self.far))
        self.ahead = float(ahead[0])

    def fitted(self, log_y: np.ndarray, scatter: float, rng: np.random.Generator) -> FittedLaw:
        """The law as it comes back from these losses."""
        seeds = scatter, len(self.log_x) // SEEDS
        return fit_law(self.law, self.log_x, log_y, self.cell, floor=True, seeds=seeds, rng=rng)

    def error(self) -> float:
        """The largest of a shape parameter where there is no noise."""
        best = self.fitted(self.clean, 1e-9, np.random.default_rng(0)).best
        linear = 1 + self.law.num_shapes
        orders = [[*range(len(THETA[self.law.name]))], *map(list, self.law.orders)]
        return min(float(np.abs(best[linear:][one] - self.truth[linear:]).max()) for one in orders)

    def held(self, number: int) -> dict[str, bool | None]:
        """What the intervals of a study held; None where it is not identified."""
        name = self.law.name
        rng = np.random.default_rng([number, len(name), *name.encode()])
        log_y = self.clean + SCATTER * rng.standard_normal(len(self.clean))
        scatter = math.sqrt(log_y.reshape(-1, SEEDS).var(axis=1, ddof=1).mean())
        one = self.fitted(log_y, scatter, rng)
        _, low, high = one.loss(self.far, LEVEL)
        held: dict[str, bool | None] = {AHEAD: bool(low[0] <= math.exp(self.ahead) <= high[0])}
        told = one.parameters(LEVEL)
        for (name, quantity), value in zip(told.items(), self.truth, strict=True):
            span = quantity.interval
            held[name] = None if span is None else bool(span.low <= value <= span.high)
        if self.law.num_axes == 1:
            x, far = np.exp(self.log_x), np.exp(self.far)
            low, high = extrapolate(x, np.exp(log_y), far, run=range(len(log_y))).intervals[LEVEL]
            apart = np.random.default_rng([number, 1])  # so that fits do not change what is new
            new = math.exp(self.ahead + SCATTER * apart.standard_normal())
            held[AVERAGE] = bool(low[0] <= new <= high[0])
        return held


def chosen(floor: float, number: int) -> dict[str, bool | None]:
    """As `fit` does it along one axis, for a loss with this floor and an exponent of 0.4."""
    amounts = np.repeat([30.0, 100.0, 300.0, 1000.0, 3000.0], 3)
    cell, far, exponent = np.repeat(np.arange(5), 3), 12_000.0, 0.4
    rng = np.random.default_rng(number)
    log_y = np.log(floor + 400 * amounts**-exponent) + 0.05 * rng.standard_normal(15)
    scatter = math.sqrt(log_y.reshape(-1, 3).var(axis=1, ddof=1).mean())
    one = fit_sample(
        np.log(amounts)[:, None], log_y, cell, floor=None, seeds=(scatter, 10), rng=rng
    )
    ahead = one.draws[:, 0] + one.draws[:, 1] * far ** -one.draws[:, 2]
    held: dict[str, bool | None] = {}
    for name, draws, truth in (
        (AHEAD, ahead, floor + 400 * far**-exponent),
        ("exponent", one.draws[:, 2], exponent),
    ):
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        held[name] = bool(low <= truth <= high)
    return held


def row(name: str, found: dict) -> str:
    """A row of the table."""
    studies = found["held"]
    shares = {}
    for one in studies[0]:
        known = [study[one] for study in studies if study[one] is not None]
        rare = f" (of {len(known)})" * (len(known) < len(studies))
        shares[one] = f"{100 * np.mean(known):.0f}{rare}" if known else "not identified"
    error = f"{found['error']:.0e}" if "error" in found else ""
    loss, average = shares.pop(AHEAD), shares.pop(AVERAGE, "")
    exponents = [shares.pop(one) for one in list(shares) if one.endswith("exponent")]
    rest = ", ".join(f"{one} {share}" for one, share in shares.items())
    told = [name, str(len(studies)), error, loss, ", ".join(exponents), rest, average]
    return f"| {' | '.join(told)} |"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("laws", nargs="*", default=[*LAWS, *CHOSEN], metavar="LAW")
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--to", type=Path)
    asked = parser.parse_args()
    known = json.loads(asked.to.read_text()) if asked.to and asked.to.exists() else {}
    print("| law | studies | error | loss at 4× | exponents | other parameters | average |")
    print("|" + " --- |" * 7)
    for name in asked.laws:
        simulated = Simulated(name) if name in LAWS else None
        if name not in known:
            known[name] = {"error": simulated.error()} if simulated else {}
        held = known[name].setdefault("held", [])
        studies = asked.studies // 4 if name in SLOW else asked.studies
        for number in range(len(held), studies):
            held.append(simulated.held(number) if simulated else chosen(CHOSEN[name], number))
            if asked.to and (number % 10 == 9 or number == studies - 1):
                asked.to.parent.mkdir(exist_ok=True)
                asked.to.write_text(json.dumps(known) + "\n")
        print(row(name, known[name]), flush=True)


if __name__ == "__main__":
    main()
