"""A study becomes runs: which, how many, and under which names."""

from typing import Any

import pytest

from chemscale.table import expand
from chemscale.table.errors import DataError, StudyError, UnknownName
from chemscale.table.records import Study
from chemscale.table.results import Choice, Size

WIDTHS = {"w16": 16, "w24": 24, "w32": 32, "w48": 48, "w128": 128}


class ToyBench:
    unit = "structure"
    dataset_revision = 1

    def size(self, family: str, size: str) -> Size:
        if size not in WIDTHS:
            raise UnknownName.of(f"size of {family}", size, WIDTHS)
        width = WIDTHS[size]
        return Size(
            family=family,
            size=size,
            revision=1,
            config={"width": width},
            num_params=width**2,
            num_params_total=width**2,
            bytes_training=16 * width**2,
            flops_per_item=6.0 * width**2,
            flops_formula={"atoms": 6.0 * width**2},
        )

    def fingerprint(self, num_train: int, seed: int) -> str:
        if num_train > 1000:
            raise DataError(f"num_train = {num_train} asks for more than there is")
        return f"{num_train}-{seed}"


BENCH = ToyBench()


def study(**changes: Any) -> Study:
    data = {
        "name": "toy",
        "families": {"schnet": ["w48", "w16", "w32", "w24"]},
        "dataset": {"format": "extxyz", "path": "x.xyz"},
        "num_train": [100, 10, 1000, 30],
        "recipe": "energy-and-forces",
        "budget": {"items": 10_000},
        "search": {"learning_rate": [1e-3, 3e-3], "fraction": 0.2},
    }
    return Study.read(data | changes, "study.toml")


def choice(size: str, rate: float = 2e-3, batch: int = 16) -> Choice:
    return Choice(
        family="schnet",
        size=size,
        num_params=WIDTHS[size] ** 2,
        learning_rate=rate,
        batch_size=batch,
        source="searched",
        made="now",
    )


def test_the_search_is_at_the_smallest_and_the_second_largest_size():
    assert expand.search_sizes(study(), BENCH, "schnet") == ["w16", "w32"]


@pytest.mark.parametrize("sizes", [["w16"], ["w16", "w48"]])
def test_of_one_or_two_sizes_all_are_searched(sizes: list[str]):
    assert expand.search_sizes(study(families={"schnet": sizes}), BENCH, "schnet") == sizes


def test_the_search_trains_on_the_middle_amount_the_lower_of_two():
    assert study().search_num_train == 30
    assert study(num_train=[1000, 10, 100]).search_num_train == 100


def test_a_search_is_its_grid_at_two_sizes_on_a_share_of_the_trunk_without_cooldown():
    runs = expand.search_runs(
        study(search={"learning_rate": [1e-3, 3e-3], "batch_size": [4, 8], "fraction": 0.2}), BENCH
    )
    seen = {(r.size, r.trunk.recipe.learning_rate, r.trunk.recipe.batch_size) for r in runs}
    assert len(runs) == len(seen) == 8
    assert {(r.length.items, r.length.cooldown, r.trunk.seed) for r in runs} == {(2000, False, 0)}


def test_a_searched_run_that_is_finished_goes_on_along_its_trunk():
    (searched, *_) = expand.search_runs(study(), BENCH)
    (finished,) = expand.finish_runs(study(), [searched])
    assert finished.trunk_id == searched.trunk_id
    assert (finished.length.items, finished.length.cooldown) == (10_000, True)


def test_without_a_search_nothing_is_searched_or_checked():
    plain = study(search=None)
    assert expand.search_runs(plain, BENCH) == []
    assert expand.check_runs(plain, BENCH, [choice("w48")]) == []


def test_a_sweep_is_sizes_by_amounts_by_seeds():
    runs = expand.sweep_runs(study(seeds=2), BENCH, [])
    assert len({run.id for run in runs}) == 4 * 4 * 2
    assert {run.trunk.seed for run in runs} == {0, 1}


def test_seeds_are_counted_size_by_size_with_a_default():
    some = study(seeds={"default": 2, "w48": 1})
    counts = {size: some.num_seeds(size) for size in WIDTHS}
    assert counts == {"w16": 2, "w24": 2, "w32": 2, "w48": 1, "w128": 2}
    assert len(expand.sweep_runs(some, BENCH, [])) == 7 * 4


def test_a_size_without_seeds_of_its_own_and_without_default_has_one():
    assert study(seeds={"w16": 3}).num_seeds("w24") == 1


def test_what_is_held_out_waits_for_a_plan():
    some = study(hold_out={"w48": [100, 1000]})
    runs = expand.sweep_runs(some, BENCH, [])
    assert len(runs) == 4 * 4 - 2
    assert {run.trunk.num_train for run in runs if run.size == "w48"} == {10, 30}
    with pytest.raises(StudyError, match=r"hold_out: w48 names \[7\], not in num_train"):
        study(hold_out={"w48": [7]})


def test_each_size_is_swept_with_the_settings_chosen_for_it():
    runs = expand.sweep_runs(study(), BENCH, [choice("w16"), choice("w48", 5e-4, 8)])
    rates = {run.size: run.trunk.recipe.learning_rate for run in runs}
    assert rates == {"w16": 2e-3, "w24": 3e-3, "w32": 3e-3, "w48": 5e-4}
    assert {r.trunk.recipe.batch_size for r in runs if r.size == "w16"} == {16}


def test_half_and_double_the_chosen_rate_are_checked_at_the_largest_size():
    runs = expand.check_runs(study(seeds=3), BENCH, [choice("w16"), choice("w48", 2e-3)])
    assert [run.trunk.recipe.learning_rate for run in runs] == [1e-3, 4e-3]
    assert {(r.size, r.trunk.num_train, r.trunk.seed) for r in runs} == {("w48", 30, 0)}
    assert {(r.length.items, r.length.cooldown) for r in runs} == {(10_000, True)}


def test_ids_stay_when_sizes_amounts_and_seeds_are_added():
    small = study(families={"schnet": ["w16"]}, num_train=[10])
    before = {run.id for run in expand.sweep_runs(small, BENCH, [])}
    after = {run.id for run in expand.sweep_runs(study(seeds=2), BENCH, [])}
    assert before < after


def test_ids_do_not_depend_on_the_name_of_the_study_or_where_its_data_lies():
    moved = study(name="other", dataset={"format": "extxyz", "path": "/elsewhere/x.xyz"})
    ids = [run.id for run in expand.sweep_runs(moved, BENCH, [])]
    assert ids == [run.id for run in expand.sweep_runs(study(), BENCH, [])]


def test_a_run_that_two_chapters_ask_for_is_one_run():
    runs = expand.sweep_runs(study(), BENCH, [])
    assert expand.unique([*runs, *runs]) == runs


def test_a_run_can_cost_its_ceiling_and_its_cooldown():
    (run,) = expand.sweep_runs(study(families={"schnet": ["w16"]}, num_train=[10]), BENCH, [])
    size = BENCH.size("schnet", "w16")
    most = 10_000 * 1.2
    assert expand.most_items(run, size.flops_per_item) == pytest.approx(most)
    assert expand.costs([run], {("schnet", "w16"): size}) == {run.id: pytest.approx(most * 6 * 256)}


def test_a_budget_in_flops_is_a_ceiling_in_items():
    (run,) = expand.sweep_runs(
        study(families={"schnet": ["w16"]}, num_train=[10], budget={"flops": 1.536e7}), BENCH, []
    )
    assert expand.most_items(run, 6 * 256) == pytest.approx(10_000 * 1.2)


def test_all_mistakes_of_a_study_are_listed_at_once():
    wrong = study(
        families={"schnet": ["w16", "w61"], "painn": ["w33"]},
        num_train=[10, 5000],
        budget={"items": 2000},
    )
    with pytest.raises(StudyError) as caught:
        expand.validate(wrong, BENCH, "study.toml")
    found = "\n".join(caught.value.mistakes)
    assert len(caught.value.mistakes) == 4
    assert "no size of schnet named 'w61'" in found
    assert (
        "no size of painn named 'w33'. Did you mean 'w32'? Known: w16, w24, w32, w48, w128" in found
    )
    assert "num_train = 5000" in found
    assert "search.fraction of budget.items is 400, but with batch_size" in found


def test_a_search_with_a_cosine_schedule_is_a_mistake():
    cosine = study(recipe={"name": "energy-and-forces", "schedule": "cosine"})
    with pytest.raises(StudyError, match="cosine run has no shorter part"):
        expand.validate(cosine, BENCH, "study.toml")


def test_a_study_without_mistakes_passes():
    expand.validate(study(), BENCH, "study.toml")


def test_a_misspelt_family_is_told_before_any_data_is_read():
    (mistake,) = expand.unknown_families(study(families={"pain": ["w16"]}))
    assert "no model family named 'pain'. Did you mean 'painn'?" in mistake


def test_the_first_evaluation_is_rounded_up_to_a_whole_batch() -> None:
    recipe = {"name": "energy", "batch_size": 32}
    asked = study(recipe=recipe, budget={"items": 1_020}, search=None)
    with pytest.raises(
        StudyError, match="batch_size 32 a trunk .* 1,024 items: raise it to 1,024 "
    ):
        expand.validate(asked, BENCH, "study.toml")
    asked = study(search={"learning_rate": [1e-3], "fraction": 0.05})
    with pytest.raises(StudyError, match="is 500, .* 1,000 items: raise it to 0.1 or more$"):
        expand.validate(asked, BENCH, "study.toml")
