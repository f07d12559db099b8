"""The door to planning: what is printed, written and refused, by a study with a fit."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from chemscale import planning, verbs
from chemscale.desk.sentences import number
from chemscale.table.results import Point, Size
from chemscale.table.store import StudyFolder

Chemscale = Callable[..., tuple[int, str, str]]

STUDY = """\
name = "toy"
families = { chemgpt = ["w16", "w32", "w64", "w128"] }
dataset = { format = "csv", path = "toy.csv" }
num_train = [30, 100, 300, 1000]
recipe = "molecules"
budget = { items = 15000 }
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
                flops_per_item=10.0 * params,
                flops_formula={},
                items_per_second={"cpu": 1e7 / params},
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
    monkeypatch.setattr(planning, "points_of", lambda _: [late])
    code, out, err = chemscale("plan", fitted, "--flops", "1e12")
    assert (code, out) == (2, "")
    assert "1 of the sweep's runs ended after the fit was made; run `chemscale fit` again" in err


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table whose runs took 6·N·D FLOPs and an hour for each 10⁶ parameters times items."""
    rows = [
        f"{params};{amount};{2 + 300 * params**-0.6 + 40 * amount**-0.4:.5f};"
        f"{6 * params * amount};{params * amount / 1e6}".replace(".", ",")
        for params in NUM_PARAMS.values()
        for amount in (30, 100, 300, 1000)
    ]
    path = tmp_path / "runs.csv"
    path.write_text("N;D;rmse;C;wall\n" + "\n".join(rows))
    return path


MAPPED = (
    "--columns",
    "num_params=N,num_train=D,test_loss=rmse",
    "--set",
    "family=mine",
    "--metric",
    "loss",
)


def test_a_table_is_planned_from_as_a_study_is_and_nothing_is_written(
    chemscale: Chemscale, table: Path
):
    known = (*MAPPED, "--columns", "flops=C,hours=wall")
    code, out, err = chemscale("plan", table, "--hours", "50", *known, "--json")
    assert (code, err) == (0, "")
    [forecast] = json.loads(out)["forecast"]
    work = forecast["num_params"] * forecast["num_train"]
    assert work <= 50e6
    assert f"about {number(6.0 * work)} FLOPs and {number(work / 1e6)} h" in forecast["why"]
    assert not (table.parent / "plans").exists()
    for written, end in (
        ("1e3", (0, "")),
        ("1.5", (2, "'1.5' is no whole number; write it as 100")),
    ):
        wish = ("--flops", "1e9", "--available", written)
        code, _, err = chemscale("plan", table, *wish, *known)
        assert code == end[0] and end[1] in err
    code, out, err = chemscale("plan", table, "--hours", "50", *MAPPED)
    assert (code, out) == (4, "")
    assert "no column seconds, no column hours, nor items_per_second with items_seen" in err


def test_what_is_of_tables_is_refused_for_a_study(chemscale: Chemscale, fitted: Path):
    code, _, err = chemscale("plan", fitted, "--flops", "1e12", "--available", "9", *MAPPED)
    assert code == 2
    assert "columns, constants, metric, available: of tables and logs" in err


def test_tenfold_takes_a_table(chemscale: Chemscale, fitted: Path):
    code, out, _ = chemscale("plan", fitted / "curves.csv", "--tenfold")
    assert code == 0
    assert "10x data (120,000 parameters on 10,000 training items): " in out


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


def test_pilots_are_ranked_by_the_hours_or_the_money_that_they_cost(
    chemscale: Chemscale, fitted: Path
):
    asked = ("plan", fitted, "--at", "chemgpt:w128", "--num-train", "3000", "--pilot", "--json")
    found = {}
    for unit, options in {
        "hours": ("--device", "cpu", "--hours", "0.05"),
        "money": ("--label-price", "0.5", "--hour-price", "2", "--device", "cpu"),
    }.items():
        code, out, err = chemscale(*asked, *options)
        assert (code, err) == (0, "")
        found[unit] = json.loads(out)["pilots"]
        rates = [-math.log(1 - one["narrower"]) / one[unit] for one in found[unit]]
        assert rates == sorted(rates, reverse=True)
    params = [NUM_PARAMS[one["size"]] for one in found["hours"]]
    hours = [1500 * 1.2 * count / 1e6 / 3600 for count in params]
    assert [one["hours"] for one in found["hours"]] == pytest.approx(hours)
    assert max(one["num_train"] for one in found["hours"]) == 1600  # all there are
    dear = next(one for one in found["money"] if one["num_train"] == 3000)
    assert dear["money"] > 0.5 * 1400  # 1,400 labels more
    code, out, err = chemscale(*asked, "--device", "h200")
    assert (code, out) == (4, "")
    assert "chemscale expand STUDY --measure" in err


def test_pilots_of_a_table_are_ranked_by_what_it_tells(chemscale: Chemscale, table: Path):
    asked = ("plan", table, "--at", "mine:250000", "--num-train", "900", "--pilot", *MAPPED)
    code, out, _ = chemscale(*asked, "--columns", "hours=wall")
    assert code == 0
    assert " hours " in out.splitlines()[1]
    assert "most per hour" in out
    code, out, _ = chemscale(*asked, "--columns", "joules=C", "--joules", "1e9")
    assert code == 0
    assert " joules " in out.splitlines()[1]
    assert "most per joule" in out
    code, _, err = chemscale(*asked, "--joules", "1e9")
    assert (code, "no column joules, or an empty one" in err) == (4, True)
    assert "Nothing is written: a table is no study" in out
