"""The whole job for both worlds, on the data that comes with the package."""

from __future__ import annotations

from pathlib import Path

from chemscale import reporting, verbs
from chemscale.progress import Watch
from chemscale.table.errors import NotIdentified, StoreError
from chemscale.tables import wrapped

MOLECULES = """\
# ChemGPT on drug-like molecules: which rate, how big, how much data?
name = "quickstart-molecules"
families = { chemgpt = ["w16", "w32", "w64"] }
dataset = { name = "example-molecules", max_evaluated = 400 }
num_train = [100, 300, 1000, 3000]
seeds = { default = 1, w16 = 2 }
recipe = { name = "molecules", warmup = 500 }

[search]
learning_rate = [3e-3, 1e-2, 3e-2]
fraction = 0.25

[budget]
items = 5_000
"""

STRUCTURES = """\
# SchNet and PaiNN on small molecules they have not seen: which prior, how big, how much data?
name = "quickstart-structures"
families = { schnet = ["w16", "w32", "w64"], painn = ["w16"] }
dataset = { name = "example-structures", max_evaluated = 120 }
num_train = [30, 150, 750]
seeds = { default = 1, w16 = 2 }
recipe = { name = "energy-and-forces", warmup = 500 }

[search]
learning_rate = [2e-3, 5e-3, 1.5e-2]
fraction = 0.35
finish = 3

[budget]
items = 3_000
"""


def run(folder: Path | None, workers: int | None, watch: Watch) -> tuple[Path, list[str]]:
    """Search, sweep, fit, plan and report two small studies.

    Returns:
        The report, and what was found in plain words.
    """
    folder = folder or _next_folder()
    if folder.exists():
        raise StoreError(f"{folder}: is there already; name another folder")
    studies = {"molecules": MOLECULES, "structures": STRUCTURES}
    words = []
    for name, text in studies.items():
        place = folder / name
        place.mkdir(parents=True)
        (place / "study.toml").write_text(text)
        verbs.train(place, workers=workers, watch=watch)
        words += [f"{name}:", *wrapped(str(verbs.fit(place))), *wrapped(_plan(place))]
    report = reporting.report([folder / name for name in studies], output=folder / "report.html")
    return report, words


def _plan(place: Path) -> str:
    """Ask what three times the compute of the dearest run would buy."""
    from chemscale import planning
    from chemscale.table.store import StudyFolder

    dearest = max(one.outcome.flops for one in StudyFolder(place).trained())
    try:
        forecast, path = planning.plan(place, flops=3 * dearest)
    except NotIdentified as error:
        return f"next run: not identified at this size ({error})"
    low, high = forecast.intervals["90"]
    return (
        f"next run, for three times the compute of the dearest so far: {forecast.family} "
        f"{forecast.size} on {forecast.num_train:,}, {forecast.metric} {forecast.value:.4g} "
        f"(90 % interval {low:.4g} to {high:.4g}); chemscale train {path} checks it"
    )


def _next_folder() -> Path:
    number = 1
    while Path(f"quickstart-{number}").exists():
        number += 1
    return Path(f"quickstart-{number}")
