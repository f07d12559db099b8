"""What a recipe means at step k, and how a trunk ends."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from chemscale.bench.training.recipe import (
    Batches,
    cooldown_rate,
    cooldown_steps,
    ending,
    evaluation_steps,
    out_of_patience,
    stream,
    trunk_rate,
)
from chemscale.table.records import Length, Recipe

RECIPE = Recipe(learning_rate=1e-2, batch_size=10, warmup=100)
LENGTH = Length(items=10_000, flops=None, patience=0.5)
SUBSET = np.arange(100, 137)  # 37 items


def rows(losses: list[float], ratio: float = 2 ** (1 / 8)) -> list[dict[str, Any]]:
    """Evaluations of a trunk, the untrained model first."""
    first = {"step": 0, "items_seen": 0, "val_loss": 10.0}
    seen = [1000 * ratio**k for k in range(len(losses))]
    later = [
        {"step": k + 1, "items_seen": items, "val_loss": loss}
        for k, (items, loss) in enumerate(zip(seen, losses, strict=True))
    ]
    return [first, *later]


# --- batches ---


def test_a_batch_depends_on_the_step_only():
    straight, jumping = Batches(SUBSET, 8, 3), Batches(SUBSET, 8, 3)
    expected = [straight[k] for k in range(30)]
    for k in (29, 0, 17, 5, 17):
        assert jumping[k].tolist() == expected[k].tolist()


@pytest.mark.parametrize("batch_size", [1, 8, 37, 100])
def test_every_epoch_covers_the_subset_once(batch_size: int):
    batches = Batches(SUBSET, batch_size, 0)
    steps = math.ceil(5 * len(SUBSET) / batch_size)
    items = np.concatenate([batches[k] for k in range(steps)])[: 5 * len(SUBSET)]
    for epoch in items.reshape(5, len(SUBSET)):
        assert sorted(epoch) == SUBSET.tolist()


def test_epochs_and_seeds_have_orders_of_their_own():
    one, other = Batches(SUBSET, 37, 0), Batches(SUBSET, 37, 1)
    assert one[0].tolist() != one[1].tolist()
    assert one[0].tolist() != other[0].tolist()


def test_the_items_seen_in_order_do_not_depend_on_the_batch_size():
    small, large = Batches(SUBSET, 4, 0), Batches(SUBSET, 20, 0)
    assert np.concatenate([small[k] for k in range(5)]).tolist() == large[0].tolist()


def test_each_purpose_has_a_stream_of_its_own():
    streams = {stream(seed, purpose) for seed in range(5) for purpose in ("weights", "order")}
    assert len(streams) == 10
    assert all(0 <= value < 2**63 for value in streams)


# --- evaluations ---


@pytest.mark.parametrize("batch_size", [1, 7, 8, 32])
def test_a_trunk_is_evaluated_eight_times_a_doubling_rounded_up_to_whole_steps(batch_size: int):
    steps = list(itertools.islice(evaluation_steps(batch_size), 40))
    expected = [math.ceil(round(1000 * 2 ** (k / 8) / batch_size, 6)) for k in range(60)]
    assert steps == list(dict.fromkeys(expected))[:40]


def test_evaluations_of_huge_batches_still_move_forward():
    steps = list(itertools.islice(evaluation_steps(4096), 10))
    assert steps == list(range(1, 11))


# --- rates ---


def test_the_rate_rises_over_the_warmup_and_then_stays():
    rates = [trunk_rate(RECIPE, step, LENGTH) for step in (0, 4, 9, 10, 900)]
    assert rates == pytest.approx([1e-3, 5e-3, 1e-2, 1e-2, 1e-2])


def test_without_warmup_the_rate_is_full_from_the_first_step():
    assert trunk_rate(RECIPE.model_copy(update={"warmup": 0}), 0, LENGTH) == 1e-2


def test_a_constant_trunk_does_not_know_its_ceiling():
    longer = LENGTH.model_copy(update={"items": 40_000})
    for step in range(0, 1000, 50):
        assert trunk_rate(RECIPE, step, LENGTH) == trunk_rate(RECIPE, step, longer)


def test_a_cosine_rate_falls_to_zero_at_the_ceiling():
    cosine = RECIPE.model_copy(update={"schedule": "cosine"})
    assert trunk_rate(cosine, 499, LENGTH) == pytest.approx(5e-3)
    assert trunk_rate(cosine, 999, LENGTH) == pytest.approx(0)


def test_a_cooldown_falls_with_the_square_root_and_its_last_step_still_moves():
    rates = [cooldown_rate(RECIPE, step, 99) for step in range(99)]
    assert rates[0] == pytest.approx(1e-2 * (1 - 0.1))
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))
    assert 0 < rates[-1] < 1e-4


def test_a_cooldown_takes_a_fifth_of_the_items_before_it():
    assert cooldown_steps(RECIPE, 5000) == 100
    assert cooldown_steps(RECIPE, 10) == 1


# --- patience ---


def test_patience_ends_a_trunk_at_twice_the_items_of_its_best():
    falling_then_flat = [1.0 - 0.01 * k for k in range(12)] + [0.95] * 8
    assert out_of_patience(rows(falling_then_flat), LENGTH)
    assert not out_of_patience(rows(falling_then_flat[:-1]), LENGTH)


def test_patience_does_not_end_a_trunk_before_its_sixteenth_evaluation():
    rising = [1.0 + k for k in range(16)]
    assert not out_of_patience(rows(rising[:15]), LENGTH)
    assert out_of_patience(rows(rising), LENGTH)


def test_a_patience_of_one_never_ends_a_trunk():
    endless = LENGTH.model_copy(update={"patience": 1.0})
    assert not out_of_patience(rows([1.0 + k for k in range(50)]), endless)


def test_a_trunk_that_still_falls_is_not_ended():
    assert not out_of_patience(rows([0.97**k for k in range(40)]), LENGTH)


def test_patience_may_wait_while_the_loss_falls_towards_an_early_best():
    waits = LENGTH.model_copy(update={"unless_falling": True})
    start = [0.3, 0.31, 0.8]  # of pre-trained weights, before the rate is up
    for after, ends in ((0.95, False), (1.0, True), (1.01, True)):
        curve = rows(start + [0.8 * after**k for k in range(20)])
        assert out_of_patience(curve, LENGTH)
        assert out_of_patience(curve, waits) is ends


# --- endings ---


def test_a_loss_that_stands_still_is_plateaued():
    assert ending(rows([0.9**k for k in range(20)] + [0.9**20] * 10), True)[0] == "plateaued"


def test_a_loss_that_still_falls_at_the_ceiling_is_capped_with_how_much():
    verdict, why = ending(rows([0.95**k for k in range(30)]), True)
    assert verdict == "capped"
    assert "still falling at the ceiling" in why
    assert "%" in why


def test_a_loss_that_rose_from_its_best_is_overfitted_with_how_much():
    verdict, why = ending(rows([0.9**k for k in range(15)] + [0.9**15 * 1.2] * 6), True)
    assert verdict == "overfitted"
    assert "above its best" in why


def test_a_flicker_is_not_taken_for_overfitting():
    flicker = np.random.default_rng(0).normal(0, 0.05, 30)
    losses = [0.5 * math.exp(x) for x in flicker]
    assert ending(rows(losses), True)[0] == "plateaued"


def test_a_loss_that_fell_but_ended_by_patience_is_not_capped():
    assert ending(rows([0.95**k for k in range(30)]), False)[0] == "plateaued"


def test_a_trunk_of_few_evaluations_is_capped_as_nobody_can_tell():
    assert ending(rows([1.0] * 7), True) == (
        "capped",
        "too short to tell whether the loss still falls",
    )


def test_the_untrained_model_is_no_part_of_the_ending():
    losses = [0.5] * 12
    assert ending(rows(losses), True) == ending(rows(losses)[1:], True)
