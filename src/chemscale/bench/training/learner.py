"""What learns in a run: a model with its optimiser; one step, one evaluation, saved and loaded.

Batch k and all randomness are pure functions of (trunk, k). When to do what is the loop's affair.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np

from chemscale.bench.models.base import Family, load_family
from chemscale.bench.training import checkpoint, power
from chemscale.bench.training.average import Average
from chemscale.bench.training.cuda_graphs import Stepper
from chemscale.bench.training.devices import DTYPES, default_device
from chemscale.bench.training.judge import Judge
from chemscale.bench.training.ranks import Ranks
from chemscale.bench.training.recipe import Batches, stream, warm_rate
from chemscale.bench.training.resources import Resources
from chemscale.bench.training.step import seed_generator, shares, train_step
from chemscale.bench.training.workbench import Workbench, start_model
from chemscale.table.records import Run
from chemscale.table.run_folder import RunFolder


class Diverged(Exception):
    """The loss is no longer a number, or far above that of an untrained model."""


class Learner:
    """Everything that a run changes is in `state`, the model, the optimiser and the average.

    Args:
        bench: the study's workbench.
        run: what is trained.
        resources: what it may use.
        ranks: the processes that train it together.
        found: the checkpoint to go on from; None: from the start.
    """

    def __init__(
        self, bench: Workbench, run: Run, resources: Resources, ranks: Ranks, found: Path | None
    ):
        trunk, dataset = run.trunk, bench.dataset
        self.run, self.recipe, self.ranks = run, trunk.recipe, ranks
        self.device = default_device()
        config = load_family(trunk.family).Config.read(trunk.config, "run.json")
        self.subset = dataset.subset(trunk.num_train, trunk.seed)
        self.batches = Batches(self.subset, self.recipe.batch_size, trunk.seed)
        self.collate = dataset.collate(config)
        self.loads = partial(dataset.loads, config=config)
        self.state = checkpoint.State()
        self.model: Family = start_model(
            bench, trunk.family, config, self.recipe, self.subset, trunk.seed
        )
        if found is None:
            bench.start(self.model, run)
        resources.prepare(self.model)
        ranks.place(self.model, self.device)
        self._judge = Judge(bench, self.model, self.recipe, ranks)
        self.take_step = Stepper(self.model, self.recipe, resources)
        self.optimizer = self.take_step.optimizer
        self.average = Average(self.model, self.recipe.ema)
        self._since: tuple[float, float | None] | None = None  # clock and meter, while steps go on
        if found is not None:
            self.state = checkpoint.load_state(found)
            checkpoint.load_weights(found, self.model, self.optimizer, self.average)

    def step(self, rate: float) -> None:
        """One step at a learning rate."""
        state, recipe, ranks = self.state, self.recipe, self.ranks
        if self._since is None:
            self._since = time.perf_counter(), power.joules()
        purpose = f"dropout of step {state.step}"
        seed_generator(self.device, stream(self.run.trunk.seed, purpose))
        items = self.batches[state.step]
        cut = shares(items, self.loads(items), recipe.max_load, ranks.count)
        parts = [self.collate(part) for part in cut[ranks.rank]]
        seen = ranks.all_see([self.model.seen(part) for part in parts], self.device)
        if len(parts) == ranks.count == 1:
            loss = self.take_step(parts[0], rate)
        else:
            loss = train_step(
                self.model,
                self.optimizer,
                [part.to(self.device, DTYPES[recipe.precision]) for part in parts],
                recipe,
                rate,
                whole=seen,
                ranks=ranks,
                rounds=max(map(len, cut)),
            )
        state.pending.append(loss)
        state.add(seen, self.model.flops(seen, recipe))
        self.average.add(state.step, rate / warm_rate(recipe, state.step - 1))

    def _settle(self) -> None:
        """Wait for the steps so far, which a GPU may still be at, and account for them."""
        state = self.state
        state.settle(self.ranks)
        if self._since is not None:
            start, before = self._since
            state.seconds += time.perf_counter() - start
            state.joules = power.added(state.joules, before)
            self._since = None

    def evaluate(self, phase: str) -> None:
        """Add a row to the curve.

        Raises:
            Diverged: the loss says so.
        """
        self._settle()
        state = self.state
        since = state.rows[-1]["steps_done"] if state.rows else 0
        recent = np.array(state.losses[since:], dtype=np.float64)
        with self.average.in_place():
            val_loss = self._judge.measure("validation")["loss"]
        finite = np.isfinite(recent).all() and np.isfinite(val_loss)
        if not finite:
            raise Diverged(f"the loss is no longer a number at {state.items_seen:,} items")
        rate = self.optimizer.param_groups[-1]["lr"]
        state.rows.append(
            {
                "step": state.step,
                "phase": phase,
                **{name: getattr(state, name) for name in checkpoint.COUNTERS},
                "flops": state.flops,
                "seconds": state.seconds,
                "joules": state.joules,
                "learning_rate": float(rate) if state.step else 0.0,
                "train_loss": float(recent.mean()) if len(recent) else None,
                "val_loss": val_loss,
                "steps_done": len(state.losses),
            }
        )
        self.refuse_divergence()

    def refuse_divergence(self) -> None:
        """Raise `Diverged` where the curve ends far above its start."""
        rows = [] if self.run.trunk.start_from else self.state.rows  # its first is a trained one
        if rows and rows[-1]["val_loss"] > 2 * rows[0]["val_loss"]:
            raise Diverged(
                f"the validation loss at {rows[-1]['items_seen']:,} items "
                f"({rows[-1]['val_loss']:.3g}) is over twice that of the untrained model "
                f"({rows[0]['val_loss']:.3g})"
            )

    def judge(self) -> dict[str, dict[str, float]]:
        """Each metric on each split that there is."""
        with self.average.in_place():
            return self._judge.judge()

    def save(self, place: RunFolder) -> None:
        """Write a checkpoint."""
        self._settle()
        checkpoint.save(place, self.state, self.model, self.optimizer, self.average, self.ranks)

    def branch(self, best: Path, step: int) -> None:
        """Go back to the trunk's best point; what the trunk saw beyond it stays in the curve."""
        checkpoint.load_weights(best, self.model, self.optimizer, self.average)
        self.take_step.forget()
        there, here = checkpoint.load_state(best), self.state
        here.phase, here.branch, here.step = "cooldown", step, step
        for name in (*checkpoint.COUNTERS, "flops", "seconds", "joules"):
            setattr(here, name, getattr(there, name))
