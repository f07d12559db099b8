"""The door to planning: what is printed, written and refused, by a study with a fit."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from chemscale import verbs
from chemscale.table.results import Point, Size
from chemscale.table.store import StudyFolder

Chemscale = Callable[..., tuple[int, str, str]]

STUDY = """\
name = "toy"
families = { chemgpt = ["w16", "w32", "w64", "w128"] }
dataset = { format = "csv", path = "toy.csv" }
num_train = [30, 100, 300, 1000]
recipe = "molecules"
budget = { items = 1500 }
"""
NUM_PARAMS = {"w16": 2_000, "w32": 8_000, "w64": 30_000, "w128": 120_000}


@pytest.fixture
def fitted(tmp_path: Path) -> Path:
    """A study with 1,600 training molecules, a timed ladder and a fit, nothing trained."""
    (tmp_path / "study.toml").write_text(STUDY)
    rows = [
        f"chemgpt,{size},{params},{amount},{2 + 300 * params**-0.6 + 40 * amount**-0.4}\n"
        for size, params in NUM_PARAMS.items()
        for amount in (30, 100, 300, 1000)
    ]
    table = tmp_path / "curves.csv"
    table.write_text("family,size,num_params,num_train,test_loss\n" + "".join(rows))
    folder = StudyFolder(tmp_path)
    folder.write_notes([], available=1600)
    folder.write_sizes(
        [
            Size(
                family="chemgpt",
                size=size,
                revision=1,
                config={},
                num_params=params,
                num_params_total=params,
                bytes_training=16 * params,
                flops_per_item=100.0 * params,
                flops_formula={},
                items_per_second={"cpu": 1e6 / params},
            )
            for size, params in NUM_PARAMS.items()
        ]
    )
    folder.write_fit(verbs.fit(table))
    return tmp_path


def test_a_fit_that_does_not_know_all_runs_plans_nothing(
    chemscale: Chemscale, fitted: Path, monkeypatch: pytest.MonkeyPatch
):
    (fitted / "points.csv").write_text("run,role\nold,sweep\nnew,plans/001\n")
    late = Point(run="new", family="chemgpt", size="w16", num_params=2000, num_params_total=2000,
                 num_train=30, unit="molecule", seed=0)  # fmt: skip
    monkeypatch.setattr(verbs, "points_of", lambda _: [late])
    code, out, err = chemscale("plan", fitted, "--flops", "1e12")
    assert (code, out) == (2, "")
    assert "1 of the sweep's runs ended after the fit was made; run `chemscale fit` again" in err


def test_tenfold_takes_a_table(chemscale: Chemscale, fitted: Path):
    code, out, _ = chemscale("plan", fitted / "curves.csv", "--tenfold")
    assert code == 0
    assert "10x data (120,000 parameters on 10,000): " in out
    code, _, err = chemscale("plan", fitted / "curves.csv", "--flops", "1e12")
    assert code == 1
    assert "tables and logs go to fit, report and plan --tenfold" in err


def test_money_is_planned_by_its_prices_and_the_plan_keeps_them(chemscale: Chemscale, fitted: Path):
    prices = ("--label-price", "0.5", "--hour-price", "2", "--device", "cpu")
    code, out, err = chemscale("plan", fitted, "--money", "500", *prices)
    assert (code, err) == (0, "")
    assert "labels at 0.5, training at 2 an hour on cpu" in out
    assert f"Written to {fitted / 'plans' / '001.toml'}" in out
    [forecast] = StudyFolder(fitted / "plans" / "001.toml").study().forecast
    assert forecast.prices is not None
    assert forecast.prices.available == 1600
    assert forecast.money is not None
    assert 400 < forecast.money <= 500  # the best forecast spends it on labels
    assert forecast.num_train > 1600


def test_money_that_buys_nothing_is_not_identified_and_without_a_price_a_mistake(
    chemscale: Chemscale, fitted: Path
):
    hours = ("--hour-price", "4", "--device", "cpu")
    code, out, err = chemscale("plan", fitted, "--money", "1e-9", *hours)
    assert (code, out) == (4, "")
    assert "the cheapest run costs" in err
    code, out, err = chemscale("plan", fitted, "--money", "10")
    assert (code, out) == (2, "")
    assert "money needs a price" in err
    assert not (fitted / "plans").exists()


def test_tenfold_lists_what_ten_times_more_buys_and_writes_no_plan(
    chemscale: Chemscale, fitted: Path
):
    code, out, _ = chemscale("plan", fitted, "--tenfold")
    assert code == 0
    assert [line.split(" (")[0].strip() for line in out.splitlines()] == [
        "chemgpt", "now", "10x size", "10x data", "10x data and size",
    ]  # fmt: skip
    code, out, _ = chemscale("plan", fitted, "--tenfold", "--json")
    now, *more = json.loads(out)["chemgpt"]
    assert (code, now["resource"], len(more)) == (0, "now", 3)
    assert all(row["answer"]["value"] < now["answer"]["value"] for row in more)
    code, out, err = chemscale("plan", fitted, "--tenfold", "--flops", "1e9")
    assert (code, out) == (2, "")
    assert "makes no plan" in err
    assert not (fitted / "plans").exists()


def test_pilots_are_listed_with_cost_and_interval_and_the_first_is_written_as_a_plan(
    chemscale: Chemscale, fitted: Path
):
    asked = ("plan", fitted, "--at", "chemgpt:w128", "--num-train", "1600", "--pilot")
    code, out, err = chemscale(*asked, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    [forecast] = StudyFolder(found["path"]).study().forecast
    first = found["pilots"][0]
    assert (forecast.size, forecast.num_train) == (first["size"], first["num_train"])
    code, out, _ = chemscale(*asked)
    assert code == 0
    header, row = out.splitlines()[1:3]
    assert header.split() == ["size", "num_train", "run", "FLOPs", "interval", "after", "narrower"]
    assert row.split()[:2] == [first["size"], f"{first['num_train']:,}"]
    assert "Written to" in out


def test_pilots_that_are_not_worth_their_cost_leave_no_plan(chemscale: Chemscale, fitted: Path):
    asked = ("plan", fitted, "--at", "chemgpt:w128", "--num-train", "1600", "--pilot")
    code, out, _ = chemscale(*asked, "--flops", "1")
    assert code == 0
    assert "Stop piloting chemgpt:w128 on 1,600 items" in out
    assert not (fitted / "plans").exists()
    code, out, err = chemscale("plan", fitted, "--flops", "1", "--pilot")
    assert (code, out) == (2, "")
    assert "--pilot goes with --at" in err
