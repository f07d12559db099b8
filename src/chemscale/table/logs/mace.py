"""MACE: `results/NAME_run-SEED_train.txt`, and `logs/NAME_run-SEED.log` beside that folder."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from chemscale.table.logs.rows import Row, matched, settings

END = "_train.txt"
TOLD = {
    "num_params": r"[Nn]umber of parameters: ([\d_,]+)",
    "num_train": r"Total number of configurations: train=(\d+)",
}
FROM_ARGUMENTS = {"seed": "seed", "batch_size": "batch_size", "lr": "learning_rate"}
OUR_NAMES = {  # of the columns of the table of errors
    "MAE E / meV / atom": "energy_mae",
    "RMSE E / meV / atom": "energy_rmse",
    "MAE F / meV / A": "force_mae",
    "RMSE F / meV / A": "force_rmse",
}


def holds(path: Path) -> bool:
    """Whether these are lines of JSON as MACE writes them."""
    with path.open(errors="replace") as file:
        return '"mode": "' in file.readline()


def read(files: Sequence[Path]) -> list[Row]:
    """A row for each run: errors on test from the log, on validation from the results."""
    rows = []
    for path in files:
        evaluated = _evaluations(path)
        last = {name: value for row in evaluated for name, value in row.items()}
        rows.append(_told(path) | last)
    return rows


def history(path: Path) -> list[Row]:
    """A row for each evaluation, after so many epochs; errors are those on validation."""
    told = _told(path)
    found = _evaluations(path)
    return [
        told | row | {"epoch": 0 if row["epoch"] is None else row["epoch"] + 1} for row in found
    ]


def _told(path: Path) -> Row:
    """What the log of the run says of it, errors on test among it."""
    tag = path.name.removesuffix(END)
    row: Row = {"run": (path.parent / tag).as_posix(), "unit": "structure"}
    folders = path.parent.parent / "logs", path.parent, path.parent.parent
    log = next((one for one in (place / f"{tag}.log" for place in folders) if one.is_file()), None)
    if log is not None:
        text = log.read_text(errors="replace")
        row |= matched(text, TOLD) | _test_errors(text)
        told = _arguments(text) or _arguments(_debug(log))
        row |= settings(told)
        row |= {ours: told[its] for its, ours in FROM_ARGUMENTS.items() if its in told}
        ended = text.rfind("INFO: Done") > text.rfind("INFO: Started training")
        row["status"] = "finished" if ended else "stopped_early"
    return row


def _debug(log: Path) -> str:
    """What was written beside the log since MACE 0.3.7; its arguments are there only."""
    more = log.with_name(f"{log.stem}_debug.log")
    return more.read_text(errors="replace") if more.is_file() else ""


def _arguments(text: str) -> dict[str, Any]:
    """The arguments of the program, which it logs as Python writes a Namespace."""
    found = re.search(r"Configuration: (Namespace\(.*\))$", text, re.MULTILINE)
    if not found:
        return {}
    told: dict[str, Any] = {}
    with suppress(SyntaxError):  # something in it is not written as Python would read it
        call = ast.parse(found[1], mode="eval").body
        for one in call.keywords if isinstance(call, ast.Call) else ():
            try:
                told[str(one.arg)] = ast.literal_eval(one.value)
            except ValueError:
                told[str(one.arg)] = ast.unparse(one.value)
    return told


def _evaluations(path: Path) -> list[Row]:
    """What the evaluations of each head found, in MACE's units and order."""
    found = []
    for line in path.read_text(errors="replace").splitlines():
        with suppress(ValueError):  # the last line may be cut off
            one = json.loads(line)
            if one.get("mode") == "eval":
                found.append(one)
    heads = len({str(one.get("head", "")) for one in found})
    return [
        {
            f"val_{name}" + (f".{one.get('head', '')}" if heads > 1 else ""): value
            for name, value in one.items()
            if name not in ("mode", "epoch", "head", "time")
        }
        | {"epoch": one["epoch"]}
        for one in found
    ]


def _test_errors(text: str) -> Row:
    """The rows of tables of errors that are neither training nor validation; later ones count."""
    tests: dict[str, Row] = {}
    titles: list[str] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == "config_type":
            titles = [OUR_NAMES.get(title, title) for title in cells[1:]]
        elif not cells[0].startswith(("train", "valid")):
            tests[cells[0]] = dict(zip(titles, cells[1:], strict=True))
    return {
        f"{title}.{test}" if len(tests) > 1 else title: value
        for test, errors in tests.items()
        for title, value in errors.items()
    }
