"""Points of several studies in one table."""

from pathlib import Path
from typing import Any

from chemscale.table.joining import join
from chemscale.table.records import Study
from chemscale.table.results import Point


def study(name: str, path: str, recipe: Any = "energy-and-forces") -> Study:
    return Study.model_validate(
        {
            "name": name,
            "families": {"painn": ["w16"]},
            "dataset": {"format": "extxyz", "path": path},
            "num_train": [10],
            "recipe": recipe,
            "budget": {"items": 2000},
        }
    )


def point(run: str, family: str = "painn") -> Point:
    counts = dict(num_params=1000, num_params_total=1100, num_train=10)
    return Point(run=run, family=family, size="w16", unit="structure", seed=0, **counts)


def test_studies_that_train_alike_are_one_ladder():
    same = {
        Path("/a/one"): (study("one", "../data/x.xyz"), [point("a")]),
        Path("/a/b/two"): (study("two", "../../data/x.xyz"), [point("b")]),
    }
    assert [p.family for p in join(same)] == ["painn", "painn"]


def test_a_family_trained_in_two_ways_is_told_apart_by_its_study():
    tuned = {"name": "energy-and-forces", "start_from": "../xtb"}
    found = join(
        {
            Path("/a/scratch"): (study("scratch", "x.xyz"), [point("a"), point("b", "schnet")]),
            Path("/a/tuned"): (study("tuned", "../scratch/x.xyz", tuned), [point("c")]),
        }
    )
    assert [p.family for p in found] == ["painn (scratch)", "schnet", "painn (tuned)"]
    assert [p.run for p in found] == ["a", "b", "c"]


def test_studies_of_one_name_are_told_apart_by_their_folder():
    found = join({Path(f"/{a}"): (study("same", "x.xyz"), [point(a)]) for a in "ab"})
    assert [p.family for p in found] == ["painn (/a)", "painn (/b)"]
