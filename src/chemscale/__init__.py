"""Measure how deep chemical models scale, and plan the next run before paying for it.

`Study → Run → Curve → Estimate → Fit → Plan → Report`: the verbs turn one into the next.
Everything is loaded on first use; torch only by what trains.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_ROOMS = {
    "evaluation": "evaluate",
    "exchange": "adopt export",
    "labelling": "label",
    "planning": "plan",
    "preparation": "prepare",
    "reporting": "report",
    "table.errors": "ChemscaleError",
    "table.evaluation": "Evaluation",
    "table.fits": "Fit",
    "table.records": "Run Study",
    "table.results": "Curve Estimate Outcome Point",
    "table.store": "StudyFolder",
    "using": "calculator embed generate load_model probe",
    "verbs": "estimate expand fit train",
}
_WHERE = {name: f"chemscale.{room}" for room, names in _ROOMS.items() for name in names.split()}

__all__ = sorted([*_WHERE, "__version__"])

if TYPE_CHECKING:
    from chemscale.evaluation import evaluate as evaluate
    from chemscale.exchange import adopt as adopt
    from chemscale.exchange import export as export
    from chemscale.labelling import label as label
    from chemscale.planning import plan as plan
    from chemscale.preparation import prepare as prepare
    from chemscale.reporting import report as report
    from chemscale.table.errors import ChemscaleError as ChemscaleError
    from chemscale.table.evaluation import Evaluation as Evaluation
    from chemscale.table.fits import Fit as Fit
    from chemscale.table.records import Run as Run
    from chemscale.table.records import Study as Study
    from chemscale.table.results import Curve as Curve
    from chemscale.table.results import Estimate as Estimate
    from chemscale.table.results import Outcome as Outcome
    from chemscale.table.results import Point as Point
    from chemscale.table.store import StudyFolder as StudyFolder
    from chemscale.using import calculator as calculator
    from chemscale.using import embed as embed
    from chemscale.using import generate as generate
    from chemscale.using import load_model as load_model
    from chemscale.using import probe as probe
    from chemscale.verbs import estimate as estimate
    from chemscale.verbs import expand as expand
    from chemscale.verbs import fit as fit
    from chemscale.verbs import train as train


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'chemscale' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
