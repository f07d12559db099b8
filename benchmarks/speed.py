"""Time training steps of ours beside those of other packages, in turn, on the same batches.

Each side is a process in its own environment; only one works at a time. A round is k steps of ours
and the same k steps of the peer's; its ratio is that of the times. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from operator import sub
from pathlib import Path
from statistics import geometric_mean, median, pstdev, quantiles
from typing import Any

from batches import prepare

HERE = Path(__file__).parent
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Row:
    """One line of the table: a size of ours, and who it is compared with."""

    family: str
    size: str
    peer: str
    autocast: bool = False  # bfloat16 on our side
    theirs: bool = True  # and on the peer's
    same: bool = True  # both sides are one function, and are given one set of weights

    @property
    def precision(self) -> str:
        """Of both sides, where that is not float32 for both."""
        if not self.autocast:
            return ""
        return "-bfloat16" if self.theirs else "-bfloat16-float32"

    @property
    def name(self) -> str:
        """How `--only` calls it."""
        return f"{self.family}-{self.size}{self.precision}"


ROWS = (
    *(
        Row("chemgpt", size, "transformers", autocast=autocast, theirs=theirs)
        for autocast, theirs in ((False, False), (True, False), (True, True))
        for size in ("w64", "w128", "w256", "w512")
    ),
    Row("painn", "w32", "schnetpack"),
    Row("painn", "w64", "schnetpack"),
    Row("schnet", "w64", "schnetpack"),
    Row("mace", "w32", "mace"),
    Row("mace", "w64", "mace"),
    Row("allegro", "w32", "nequip", same=False),
    Row("allegro", "w64", "nequip", same=False),
)


class Worker:
    """A side in its process, which waits without working until it is asked."""

    def __init__(self, python: str, side: str, job: dict[str, Any]):
        environment = {
            **os.environ,
            **dict.fromkeys(THREAD_VARIABLES, str(job["threads"])),
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        script = HERE / f"worker_{side}.py"
        self.process = subprocess.Popen(
            [python, str(script), json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self.facts = self._hear()

    def ask(self, **order: Any) -> dict[str, Any]:
        """Give an order and wait for the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self._hear()

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker died: {' '.join(self.process.args[:2])}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def main() -> None:
    """Time the rows asked for, print the table."""
    options = asked(__doc__, ROWS)
    flags, on_cpu = cpu()["flags"], options.device == "cpu"
    rows = [row for row in ROWS if not options.only or row.name in options.only]
    results, notes = [], []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            if row.autocast and on_cpu and not {"avx512_bf16", "amx_bf16"} & set(flags):
                notes.append(f"{row.name} left out: this CPU has no bfloat16 arithmetic.")
                continue
            print(f"{row.name} …", file=sys.stderr, flush=True)
            results.append(_time(row, options, Path(folder)))
    machine = {
        "cpu": cpu()["model"],
        "flags": [flag for flag in flags if flag.startswith(("avx", "amx", "fma"))],
        "cores": os.cpu_count(),
        "threads": options.threads,
        "device": next((r["sides"]["ours"]["device"] for r in results), options.device),
        "python": platform.python_version(),
        "batch_size": options.batch_size,
        "rounds": options.rounds,
        "data": {"molecules": options.molecules, "structures": options.structures},
    }
    print(_table(machine, results, notes))
    if options.json:
        options.json.write_text(
            json.dumps({"machine": machine, "rows": results, "notes": notes}, indent=1) + "\n"
        )


def asked(purpose: str, rows: Sequence[Row]) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=purpose.splitlines()[0])
    parser.add_argument(
        "--peer-python",
        action="append",
        default=[],
        metavar="PEER=PATH",
        help="Python of the environment of a peer (transformers, schnetpack, mace, nequip); "
        "without it only our side is timed",
    )
    names = [row.name for row in rows]
    parser.add_argument("--only", nargs="+", choices=names, metavar="ROW", help=", ".join(names))
    parser.add_argument(
        "--path",
        nargs="+",
        default=[],
        metavar="FILE",
        help="molecules (.csv) or structures (.xyz) instead of the example data",
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="of the slower side in a round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of both sides")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=20, help="different ones, used in turn")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured here")
    options = parser.parse_args()
    options.peer_python = dict(pair.split("=", 1) for pair in options.peer_python)
    options.molecules = [path for path in options.path if ".csv" in Path(path).name]
    options.structures = [path for path in options.path if ".xyz" in Path(path).name]
    return options


# --- one row -------------------------------------------------------------------------------------


def _time(row: Row, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Check that both sides agree, warm them up, and let them work in turn."""
    job = prepare(row, options, folder)
    workers = start(row, options, job)
    compared = "peer" in workers
    weights = str(folder / "weights.npz")
    checks = {side: worker.ask(do="check", path=weights) for side, worker in workers.items()}
    rounds, warming = in_turn(workers, options, options.batches)
    for measured in rounds:
        measured["useful"] = sum(job["useful"][k] for k in measured["batches"])
    for worker in workers.values():
        worker.close()
    return {
        "row": row.name,
        "kind": row.family + row.precision,
        "unit": job["unit"],
        "padding": job["padding"],
        "check": checks if row.same else None,
        "sides": {
            side: {**worker.facts, **summary(rounds, side), "extra_seconds": warming[side]["extra"]}
            for side, worker in workers.items()
        },
        "ratio": ratio(rounds, "wall") if compared else None,
        # Beside a GPU the processor waits, and its time tells nothing.
        "ratio_cpu": ratio(rounds, "cpu") if compared and options.device == "cpu" else None,
        "rounds": rounds,
    }


def start(row: Row, options: argparse.Namespace, job: dict[str, Any]) -> dict[str, Worker]:
    """Both sides of a row, or ours alone."""
    workers = {"ours": Worker(sys.executable, "ours", job)}
    if row.peer in options.peer_python:
        theirs = job | {"autocast": row.autocast and row.theirs}
        workers["peer"] = Worker(options.peer_python[row.peer], row.peer, theirs)
    return workers


def in_turn(
    workers: dict[str, Worker], options: argparse.Namespace, num_batches: int
) -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
    """Warm both sides up and let them take the same steps: times of each round, and of warming."""
    # On a GPU ours records each size of batch when it first comes.
    first = [] if options.device == "cpu" else range(num_batches)
    first = [*first, *(k % num_batches for k in range(6))]
    warming = {side: _warm_up(worker, first) for side, worker in workers.items()}
    slowest = max(seconds["step"] for seconds in warming.values())
    num_steps = max(2, math.ceil(options.seconds / slowest))
    rounds = []
    for number in range(options.rounds):
        batches = [(number * num_steps + k) % num_batches for k in range(num_steps)]
        # Who goes first alternates, so that a machine that slows down favours nobody.
        sides = sorted(workers, reverse=bool(number % 2))
        times = {side: workers[side].ask(do="time", batches=batches) for side in sides}
        rounds.append({"steps": num_steps, "batches": batches, **times})
    return rounds, warming


def _warm_up(worker: Worker, batches: Sequence[int]) -> dict[str, float]:
    """The step time once warm, and what the first steps took beyond it (building, compiling)."""
    times = [worker.ask(do="time", batches=[k])["wall"] for k in batches]
    step = median(times[len(times) // 2 :])
    return {"step": step, "extra": max(0.0, sum(times) - len(times) * step)}


def summary(rounds: list[dict[str, Any]], side: str) -> dict[str, float]:
    """What a side did in a second, median over rounds."""
    return {
        f"per_second_{clock}": median(r["useful"] / r[side][clock] for r in rounds)
        for clock in ("wall", "cpu")
    }


def ratio(rounds: list[dict[str, Any]], clock: str) -> dict[str, float]:
    """The peer's time over ours in each round: median and quartiles."""
    ratios = [r["peer"][clock] / r["ours"][clock] for r in rounds]
    low, _, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return {"median": median(ratios), "low": low, "high": high}


# --- the table -----------------------------------------------------------------------------------


def _table(machine: dict[str, Any], results: list[dict[str, Any]], notes: list[str]) -> str:
    """Markdown."""
    lines = [
        f"{machine['cpu']} ({' '.join(machine['flags'])}), {machine['cores']} cores, "
        f"{machine['threads']} thread(s) a side, on {machine['device']}; "
        f"batch of {machine['batch_size']}, "
        f"{machine['rounds']} rounds.",
        "",
        "| model | a second | ours (path) | peer | ratio (quartiles) | by CPU time | "
        "parameters, ours / peer | loss / gradient / energies apart by | "
        "first steps: extra s, ours / peer |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        ours, peer = result["sides"]["ours"], result["sides"].get("peer")
        cells = [result["row"], result["unit"], f"{ours['per_second_wall']:,.0f} ({ours['path']})"]
        if peer:
            cells += [
                f"{peer['per_second_wall']:,.0f} ({peer['version']}, torch {peer['torch']})",
                "**{median:.2f}** ({low:.2f}–{high:.2f})".format(**result["ratio"]),
                f"{result['ratio_cpu']['median']:.2f}" if result["ratio_cpu"] else "–",
                f"{ours['num_params']:,} / {peer['num_params']:,}",
                _apart(result["check"]) if result["check"] else "not the same function",
                f"{ours['extra_seconds']:.1f} / {peer['extra_seconds']:.1f}",
            ]
        else:
            cells += ["–", "–", "–", f"{ours['num_params']:,}", "–", f"{ours['extra_seconds']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    padding = [r["padding"] for r in results if r["padding"] is not None]
    if padding:
        notes = [
            *notes,
            f"Of the peer's token slots {padding[0]:.0%} are padding or the last token.",
        ]
    kinds: dict[str, list[float]] = {}
    for result in results:
        if result["ratio"]:
            kinds.setdefault(result["kind"], []).append(result["ratio"]["median"])
    notes = [
        *notes,
        *(
            f"{kind}: {geometric_mean(ratios):.2f} times, geometric mean of {len(ratios)}."
            for kind, ratios in kinds.items()
            if len(ratios) > 1
        ),
    ]
    return "\n".join([*lines, "", *notes]).rstrip()


def _apart(check: dict[str, dict[str, float]]) -> str:
    """How far two sides with the same weights are from each other, relative to ours."""
    told = [
        f"{abs(check['peer'][name] / check['ours'][name] - 1):.0e}" for name in ("loss", "gradient")
    ]
    ours, peer = (check[side]["energies"] for side in ("ours", "peer"))
    if ours:  # of the spread of energies, which says that they are not all alike
        told.append(f"{max(map(abs, map(sub, ours, peer))) / pstdev(ours):.0e}")
    return " / ".join(told)


def cpu() -> dict[str, Any]:
    """Model and flags, as Linux tells them."""
    told = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            told.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    return {
        "model": told.get("model name", platform.processor() or platform.machine()),
        "flags": told.get("flags", told.get("Features", "")).split(),
    }


if __name__ == "__main__":
    main()
