"""A study file is read whole or refused with every mistake; a run is named by what changes it."""

import math

import pytest

from chemscale.table import records
from chemscale.table.errors import StudyError
from chemscale.table.records import DatasetSpec, Length, Recipe, Run, Study, Trunk, digest

STUDY = {
    "name": "water",
    "families": {"schnet": ["w16", "w24"]},
    "dataset": {"format": "extxyz", "path": "water.xyz"},
    "num_train": [30, 100],
    "recipe": "energy-and-forces",
    "budget": {"items": 4000},
}

TRUNK = Trunk(
    family="schnet",
    family_revision=1,
    config={"width": 16, "cutoff": 5.0},
    dataset="0123456789abcdef0123",
    dataset_revision=1,
    num_train=100,
    recipe=Recipe(learning_rate=3e-3, batch_size=8),
    seed=0,
)
LENGTH = Length(items=4000, flops=None, patience=0.5)


def mistakes(**changes: object) -> tuple[str, ...]:
    with pytest.raises(StudyError) as caught:
        Study.read({**STUDY, **changes}, "study.toml")
    return caught.value.mistakes


def test_an_unknown_key_is_refused_with_the_nearest_known_one():
    (mistake,) = mistakes(num_trian=[10])
    assert "unknown key 'num_trian'. Did you mean 'num_train'?" in mistake
    assert "budget, dataset, external, families" in mistake


def test_an_unknown_key_inside_a_table_is_named_by_its_path_with_the_keys_of_that_table():
    (mistake,) = mistakes(budget={"items": 4000, "patienc": 0.5})
    assert "unknown key 'budget.patienc'. Did you mean 'patience'?" in mistake
    assert "families" not in mistake


def test_all_mistakes_are_told_at_once():
    found = mistakes(
        recipe="energy-and-force",
        num_train=[-3],
        dataset={"format": "xyz", "path": "water.xyz"},
        budget={"items": 1, "flops": 2.0},
    )
    assert len(found) == 4
    for part in ("'energy-and-forces'", "num_train.0", "dataset.format", "exactly one of items"):
        assert any(part in one for one in found), part


def test_the_message_counts_the_mistakes_and_names_the_file():
    with pytest.raises(StudyError, match=r"^study.toml: 2 mistakes\n  - .*\n  - "):
        Study.read({**STUDY, "nmae": "x", "num_train": []}, "study.toml")


def test_a_missing_key_is_named():
    data = {key: value for key, value in STUDY.items() if key != "budget"}
    with pytest.raises(StudyError, match="'budget' is missing"):
        Study.read(data, "study.toml")


@pytest.mark.parametrize("value", [-1, 0, 1.5, "many"])
def test_an_amount_that_is_not_a_positive_whole_number_is_refused(value: object):
    assert any("num_train.1" in one for one in mistakes(num_train=[10, value]))


def test_a_number_that_is_not_finite_is_refused():
    assert any("finite" in one for one in mistakes(budget={"flops": math.inf}))


def test_a_size_named_twice_is_refused():
    assert mistakes(num_train=[10, 10]) == ("num_train names a value twice",)


def test_seeds_of_a_size_that_is_not_in_the_study_are_refused():
    (mistake,) = mistakes(seeds={"w61": 2})
    assert "no size 'w61'. Did you mean 'w16'?" in mistake


def test_a_dataset_is_a_name_or_a_format_but_not_both():
    with pytest.raises(StudyError, match="either the name of a registered dataset or a format"):
        DatasetSpec.read({"name": "x", "format": "csv", "path": "x.csv"}, "dataset")


def test_a_split_that_leaves_nothing_to_train_on_is_refused():
    with pytest.raises(StudyError, match="must leave something to train on"):
        DatasetSpec.read({"format": "csv", "path": "x", "test": 0.5, "validation": 0.5}, "dataset")


def test_a_record_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        TRUNK.seed = 1  # type: ignore[misc]


def test_a_recipe_keeps_what_its_departures_do_not_name():
    study = Study.read({**STUDY, "recipe": {"name": "energy", "warmup": 7}}, "study.toml")
    assert study.recipe.resolve() == records.RECIPES["energy"].model_copy(update={"warmup": 7})


# --- identity ---


def test_the_ids_of_a_literal_run_stay_as_they_were():
    # Made again by, in this folder:
    # python -c "from test_records import *; print(digest(TRUNK), digest(TRUNK, LENGTH))"
    run = Run.of("w16", "structure", TRUNK, LENGTH)
    assert (run.trunk_id, run.id) == ("aa07b599524e78bc5223", "9e09fb8069b0b54f7319")


OTHER = {
    "family": "painn",
    "family_revision": 2,
    "config": {"width": 24, "cutoff": 5.0},
    "dataset": "ffff",
    "dataset_revision": 2,
    "num_train": 101,
    "recipe": Recipe(learning_rate=3e-3, batch_size=16),
    "seed": 1,
    "start_from": "abcd",
}


def test_the_list_of_changes_below_covers_a_trunk():
    assert set(OTHER) == set(Trunk.model_fields)


@pytest.mark.parametrize("field", sorted(OTHER))
def test_everything_in_a_trunk_changes_its_id(field: str):
    assert digest(TRUNK.model_copy(update={field: OTHER[field]})) != digest(TRUNK)


@pytest.mark.parametrize("field", sorted(Recipe.model_fields))
def test_everything_in_a_recipe_changes_the_id(field: str):
    value = getattr(TRUNK.recipe, field)
    if isinstance(value, str):
        changed = value + "x"
    elif isinstance(value, tuple):
        changed = (0.5, *value[1:])
    else:
        changed = (value or 0) + 1
    recipe = TRUNK.recipe.model_copy(update={field: changed})
    assert digest(TRUNK.model_copy(update={"recipe": recipe})) != digest(TRUNK)


@pytest.mark.parametrize(
    "change",
    [
        {"items": 4001},
        {"flops": 1.0},
        {"patience": 1.0},
        {"cooldown": False},
        {"unless_falling": True},
    ],
)
def test_everything_in_a_length_changes_the_run_but_not_the_trunk(change: dict[str, object]):
    run = Run.of("w16", "structure", TRUNK, LENGTH)
    other = Run.of("w16", "structure", TRUNK, LENGTH.model_copy(update=change))
    assert other.id != run.id
    assert other.trunk_id == run.trunk_id


def test_names_that_people_see_are_not_part_of_the_id():
    one = Run.of("w16", "structure", TRUNK, LENGTH)
    assert Run.of("renamed", "thing", TRUNK, LENGTH).id == one.id


def test_the_order_of_keys_in_a_config_does_not_matter():
    turned = TRUNK.model_copy(update={"config": {"cutoff": 5.0, "width": 16}})
    assert digest(turned) == digest(TRUNK)


def test_a_last_digit_of_a_float_matters():
    recipe = TRUNK.recipe.model_copy(update={"learning_rate": math.nextafter(3e-3, 1)})
    assert digest(TRUNK.model_copy(update={"recipe": recipe})) != digest(TRUNK)


def test_a_run_read_back_from_json_has_the_id_it_was_given():
    run = Run.of("w16", "structure", TRUNK, LENGTH)
    back = Run.read(run.model_dump(mode="json"), "run.json")
    assert digest(back.trunk, back.length) == run.id


def test_a_later_field_at_its_neutral_value_leaves_old_ids_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
):
    class LongerLength(Length):
        extra: int = 0

    neutral = {**records.NEUTRAL[Length], "extra": 0}
    monkeypatch.setitem(records.NEUTRAL, LongerLength, neutral)
    old = LENGTH.model_dump()
    assert digest(LongerLength(**old)) == digest(LENGTH)
    assert digest(LongerLength(**old, extra=1)) != digest(LENGTH)


def test_an_identity_of_a_number_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite"):
        digest(TRUNK.model_copy(update={"config": {"cutoff": math.nan}}))
