"""Learn the factors of the intervals from measured curves, and show how they do on others.

    python benchmarks/calibrate.py DATA            # coverage without the group that is scored
    python benchmarks/calibrate.py DATA --write    # and src/chemscale/desk/calibration.json

DATA is a folder with `score.py`, whose suites cut the curves into what is shown and what is asked.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize

from chemscale.desk.average import Outlook, average
from chemscale.desk.calibration import Calibration, parts

LEVELS = (0.5, 0.8, 0.9)
CURVES = {"IC", "CURVE20", "CURVE50"}
WORDS = {
    "IC": "image, few-shot error",
    "CURVE20": "training curves, 20 % seen",
    "CURVE50": "training curves, 50 % seen",
    "DD": "double descent",
    "GNN-D": "graph networks over data",
    "GNN-N": "graph networks over width",
    "NANO": "nanoGPT widths",
    "LM": "language models",
    "NMT": "machine translation",
    "BB": "BIG-bench",
    "ISOFLOP": "IsoFLOP surfaces",
    "PORIAN": "Porian et al. 2024",
    "GEMSTONE": "Gemstones",
    "GNN-ND": "graph networks, far corner",
    "OVERTRAIN": "over-training",
}


class Task(NamedTuple):
    """One curve or surface: what was forecast of its hidden points, and what they were."""

    suite: str
    domain: str
    group: str  # models that resemble each other
    outlook: Outlook
    truth: np.ndarray  # (T,) log y


def scorer(data: Path) -> Any:
    """The module `score.py`."""
    spec = importlib.util.spec_from_file_location("score", data / "score.py")
    assert spec is not None and spec.loader is not None
    score = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(score)
    return score


def baselines(data: Path) -> dict[str, list[float]]:
    """Domain → RMSLE of no change, then RMSLE and interval score of the textbook's law.

    That is a power law with a floor along one axis, the additive one over a surface.
    """
    score = scorer(data)
    laws = score.suite_extrapolate(score.power_law_offset_logy, str(data))
    surfaces = score.suite_surface(score.vpnls, str(data))
    stays = score.suite_extrapolate(score.last_value, str(data)).groupby("domain").rmsle.mean()
    means = [
        frame.groupby("domain")[["rmsle", "interval_score"]].mean() for frame in (laws, surfaces)
    ]
    return {
        domain: [stays.get(domain, np.nan), *row]
        for frame in means
        for domain, row in zip(frame.index, frame.to_numpy().tolist(), strict=True)
    }


def tasks(data: Path) -> list[Task]:
    """Forecast everything the two suites of the scorer ask for."""
    score = scorer(data)
    found: list[Task] = []
    for suite in ("extrapolate", "surface"):

        def note(_: object, asked: tuple, y: np.ndarray, key: dict, suite: str = suite) -> dict:
            if suite == "extrapolate":
                x, seen, new = asked[0][:, None], asked[1], asked[2][:, None]
            else:
                x, seen, new = np.stack(asked[:2], 1), asked[2], np.stack(asked[3:], 1)
            domain = key["domain"]
            model = key["model"] if domain in CURVES else ""
            # A curve cut at 20 % and at 50 % is one curve.
            group = f"{domain.rstrip('0123456789')}/{model}"
            found.append(Task(suite, domain, group, average(x, seen).at(new), np.log(y)))
            return {**key, "rmsle": 0.0, "error": ""}

        score.run = note
        getattr(score, f"suite_{suite}")(None, str(data))
    return found


def learn(kind: str, shown: list[Task]) -> Calibration:
    """Shares by maximum likelihood (Student t with four degrees of freedom), then quantiles."""
    squares = np.concatenate([parts(task.outlook, kind) for task in shown])
    errors = np.concatenate([np.abs(task.outlook.log_y - task.truth) for task in shown])
    count = Counter(task.domain for task in shown)
    weights = np.concatenate(
        [np.full(len(task.truth), count[task.domain] ** -0.5 / len(task.truth)) for task in shown]
    )
    weights /= weights.sum()

    def misfit(logs: np.ndarray) -> tuple[float, np.ndarray]:
        shares = np.exp(logs)
        scale = squares @ shares[:-1] + shares[-1]
        ratio = errors**2 / scale / 4
        slope = weights * (0.5 - 2.5 * ratio / (1 + ratio)) / scale
        value = weights @ (0.5 * np.log(scale) + 2.5 * np.log1p(ratio))
        return float(value), np.append(squares.T @ slope, slope.sum()) * shares

    start = np.log([*[0.3] * squares.shape[1], 1e-6])
    bounds = [(-12.0, 3.0)] * squares.shape[1] + [(-16.0, -5.0)]
    shares = np.exp(minimize(misfit, start, jac=True, bounds=bounds, method="L-BFGS-B").x)
    multiple = errors / np.sqrt(squares @ shares[:-1] + shares[-1])
    order = np.argsort(multiple)
    reached = np.cumsum(weights[order])
    told = [float(multiple[order][np.searchsorted(reached, level)]) for level in LEVELS]
    kinds = ", ".join(f"{number} {domain}" for domain, number in sorted(count.items()))
    return Calibration(
        kind,
        tuple(float(f"{share:.4g}") for share in shares[:-1]),
        float(f"{shares[-1]:.4g}"),
        {level: round(value, 4) for level, value in zip(LEVELS, told, strict=True)},
        kinds,
    )


def judge(task: Task, factors: Calibration) -> list[float]:
    """RMSLE, coverage at each level, log width and interval score of the 90 % interval."""
    error = np.abs(task.outlook.log_y - task.truth)
    half = [factors.quantile(level) * factors.scale(task.outlook) for level in LEVELS]
    covered = [float(np.mean(error <= one)) for one in half]
    score = 2 * half[-1] + 20 * np.maximum(error - half[-1], 0.0)
    rmsle = float(np.sqrt(np.mean(error**2)))
    return [rmsle, *covered, float(2 * half[-1].mean()), float(score.mean())]


def learned_for(kind: str, shown: Iterable[Task]) -> Calibration:
    """Along one axis from curves only; surfaces are few, so those learn from everything."""
    return learn(kind, [one for one in shown if kind == "surface" or one.suite == "extrapolate"])


def left_out(found: list[Task], key: Callable[[Task], str]) -> dict[str, list[list[float]]]:
    """Judge every task by factors learned without its group: domain → rows."""
    rows: dict[str, list[list[float]]] = {}
    for group in sorted({key(task) for task in found}):
        rest = [task for task in found if key(task) != group]
        mine = [task for task in found if key(task) == group]
        for suite, kind in (("extrapolate", "along"), ("surface", "surface")):
            asked = [task for task in mine if task.suite == suite]
            factors = learned_for(kind, rest) if asked else None
            for task in asked:
                assert factors is not None
                rows.setdefault(task.domain, []).append(judge(task, factors))
    return rows


def show(title: str, rows: dict[str, list[list[float]]], beside: dict[str, list[float]]) -> None:
    """Print a Markdown table, the baselines beside it."""
    print(f"\n{title}\n")
    print("| | tasks | RMSLE | no change | law | 50 % | 80 % | 90 % | width | score | law's |")
    print("| --- " * 11 + "|")
    pooled = {
        "image and curves": [row for domain in CURVES for row in rows.get(domain, [])],
        "all": [row for domain in rows.values() for row in domain],
    }
    kinds = {WORDS[domain]: rows[domain] for domain in sorted(rows, key=[*WORDS].index)}
    named = {WORDS[domain]: row for domain, row in beside.items()}
    for name, mine in (kinds | pooled).items():
        rmsle, *covered, width, score = np.mean(mine, axis=0)
        share = " | ".join(f"{100 * one:.0f}" for one in covered)
        stays, law, law_score = (
            f"{one:.4f}" if np.isfinite(one) else "" for one in named.get(name, [np.nan] * 3)
        )
        print(
            f"| {name} | {len(mine)} | {rmsle:.4f} | {stays} | {law} | {share} | "
            f"{width:.3f} | {score:.3f} | {law_score} |"
        )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    found = tasks(asked.data)
    beside = baselines(asked.data)
    group = left_out(found, lambda task: task.group)
    show("Learned without the group of models that is scored:", group, beside)
    domain = left_out(found, lambda task: task.domain.rstrip("0123456789"))
    show("Learned without the whole kind of curve:", domain, beside)
    if asked.write:
        import chemscale.desk

        factors = {kind: learned_for(kind, found) for kind in ("along", "surface")}
        record = {
            kind: {
                "shares": one.shares,
                "least": one.least,
                "quantiles": {str(level): value for level, value in one.quantiles.items()},
                "learned_from": one.learned_from,
            }
            for kind, one in factors.items()
        }
        path = Path(str(chemscale.desk.__file__)).with_name("calibration.json")
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(f"\nwritten: {path.name}")


if __name__ == "__main__":
    main()
