"""The one training loop: a trunk, and the cooldown that branches from its best point.

`train_run` takes a run from wherever its last checkpoint left it to its outcome. Batch k and all
randomness are pure functions of (trunk, k), so what a resumed run computes is bit for bit what an
uninterrupted one would have.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import torch

from chemscale.bench.models.base import load_family
from chemscale.bench.nn import native
from chemscale.bench.training import checkpoint
from chemscale.bench.training.devices import device_name
from chemscale.bench.training.external import Command
from chemscale.bench.training.failure import failure
from chemscale.bench.training.learner import Diverged, Learner
from chemscale.bench.training.ranks import ALONE, Onlooker, Ranks
from chemscale.bench.training.recipe import (
    cooldown_rate,
    cooldown_steps,
    ending,
    evaluation_steps,
    out_of_patience,
    trunk_rate,
)
from chemscale.bench.training.resources import ORDINARY, Resources
from chemscale.bench.training.workbench import Workbench
from chemscale.table.errors import DataError, Stopped, StoreError
from chemscale.table.records import Run
from chemscale.table.results import Ending, Outcome, Status
from chemscale.table.run_folder import RunFolder
from chemscale.table.store import StudyFolder

CHECKPOINT_SECONDS = 60.0
ACCOUNT_SECONDS = 1.0  # the most training that a kill can hide from `flops_spent`

Event = dict[str, Any]
Tell = Callable[[Event], None]


def train_run(
    folder: StudyFolder,
    run_id: str,
    *,
    bench: Workbench | None = None,
    tell: Tell = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
    resources: Resources = ORDINARY,
    ranks: Ranks = ALONE,
) -> Outcome | None:
    """Train a run to its end and write how it ended.

    Args:
        folder: the study folder.
        run_id: which run.
        bench: the study's workbench, if it is open already.
        tell: called with what happens, for whoever watches.
        stop: asked after each step; when true the run is checkpointed and left.
        resources: what it may use.
        ranks: the processes that train it together; all call this.

    Returns:
        The outcome; None when another process holds the run or it was stopped.

    Raises:
        StoreError: the disk is full or broken. That is no ending of the run; it goes on later.
    """
    place = folder.open_run(run_id)
    if not ranks.first:
        place, tell = Onlooker(place.path), lambda event: None
    with place.hold() as ours:
        held = ranks.gather(ours)[0]
        if not held:
            tell({"event": "held", "run": run_id})
            return None
        outcome = place.outcome()
        if outcome is not None:
            tell({"event": "held", "run": run_id})
        else:
            run = place.run()
            tell({"event": "start", "run": run_id, "name": place.path.name})
            try:
                bench = bench or Workbench(folder.study(), folder.path)
                kind = Command if Command.trains(run) else _Training
                one = kind(bench, folder, place, run, tell, stop, resources, ranks)
                outcome = one.to_the_end()
            except Stopped as stopped:
                place.log(str(stopped))
                tell({"event": "stopped", "run": run_id})
                return None
            except Exception as error:
                if ranks.count > 1:
                    raise  # the others would wait for ever: all leave, and the executor says so
                outcome = failure(run, place, error)
            place.write_outcome(outcome)
            place.log(f"{outcome.status}: {outcome.sentence}")
            ended = outcome.model_dump(include={"status", "sentence"})
            tell({"event": "end", "run": run_id, **ended})
        return outcome


class _Training:
    """One run on its way: what comes when, and what is kept. The `learner` does the rest."""

    def __init__(
        self,
        bench: Workbench,
        folder: StudyFolder,
        place: RunFolder,
        run: Run,
        tell: Tell,
        stop: Callable[[], bool],
        resources: Resources,
        ranks: Ranks,
    ):
        self.bench, self.folder, self.place, self.run = bench, folder, place, run
        self.tell, self.stop, self.resources, self.ranks = tell, stop, resources, ranks
        self.recipe = run.trunk.recipe
        trunk = run.trunk
        if bench.fingerprint(trunk.num_train, trunk.seed) != trunk.dataset:
            raise DataError(
                "the data changed since this run was asked for; `chemscale expand` asks anew"
            )
        resources.refuse_for(load_family(trunk.family), trunk.family)
        self.saved_at = self.noted_at = time.monotonic()

    @property
    def state(self) -> checkpoint.State:
        """Where the path stands."""
        return self.learner.state

    # --- the path ---

    def to_the_end(self) -> Outcome:
        """Resume, run the trunk, cool down, judge."""
        self._resume()
        try:
            self.learner.refuse_divergence()  # it may have been killed before it said so
            if self.state.phase == "trunk":
                self._run_trunk()
            rows = self.state.trunk_rows()
            verdict, why = ending(rows, not out_of_patience(rows, self.run.length))
            if self.run.length.cooldown and self.recipe.schedule == "constant":
                self._run_cooldown()
        except Diverged as error:
            self._save()
            return self._outcome("diverged", str(error), None)
        metrics = self.learner.judge() if self.run.length.cooldown else {}
        checkpoint.keep(self.place, self.state, ended=True)
        return self._outcome("finished", why, verdict, metrics)

    def _run_trunk(self) -> None:
        state, length = self.state, self.run.length
        if not state.rows:
            self._evaluate("warmup")
        for step in evaluation_steps(self.recipe.batch_size):
            if step <= state.rows[-1]["step"]:
                continue
            if self._beyond(step, state.rows) or out_of_patience(state.rows, length):
                break
            while state.step < step:
                self._step(trunk_rate(self.recipe, state.step, length))
            warm = state.items_seen < self.recipe.warmup
            self._evaluate("warmup" if warm else "stable")
            self._save()

    def _run_cooldown(self) -> None:
        state = self.state
        if state.phase == "trunk":
            best = state.best_step()
            name = checkpoint.name_of("trunk", best)
            self.learner.branch(self.place.checkpoints()[name], best)
        assert state.branch is not None
        num_steps = cooldown_steps(self.recipe, state.branch * self.recipe.batch_size)
        while (done := state.step - state.branch) < num_steps:
            self._step(cooldown_rate(self.recipe, done, num_steps))
        if state.rows[-1]["phase"] != "cooldown":
            self._evaluate("cooldown")
            self._save()

    def _beyond(self, step: int, rows: list[Event]) -> bool:
        """Whether a trunk that goes on to `step` would see more than its ceiling allows.

        Answered from the evaluations so far alone, so wherever it was interrupted.
        """
        length, items = self.run.length, step * self.recipe.batch_size
        if length.items is not None:
            return items > length.items
        assert length.flops is not None
        seen = rows[-1]["items_seen"]
        return bool(seen) and rows[-1]["flops"] / seen * items > length.flops

    # --- one step, one evaluation ---

    def _step(self, rate: float) -> None:
        now = time.monotonic()
        leave, save = self._agree(self.stop(), now - self.saved_at > CHECKPOINT_SECONDS)
        if leave or save:
            self._save()
        if leave:
            raise Stopped(f"stopped at step {self.state.step}")
        if now - self.noted_at > ACCOUNT_SECONDS:
            self._note_spent()
        self.learner.step(rate)
        if self.state.step % 32 == 0:
            self._tell_progress()

    def _agree(self, *wishes: bool) -> list[bool]:
        """What any rank wishes, all do."""
        if self.ranks.count == 1:
            return list(wishes)
        return [
            count > 0 for count in self.ranks.total(list(map(int, wishes)), self.learner.device)
        ]

    def _evaluate(self, phase: str) -> None:
        self.learner.evaluate(phase)
        self._tell_progress()

    def _tell_progress(self) -> None:
        last = self.state.rows[-1]["val_loss"] if self.state.rows else None
        share = self.state.share(self.run.length, self.recipe)
        self.tell({"event": "progress", "run": self.run.id, "share": share, "val_loss": last})

    # --- checkpoints ---

    def _save(self) -> None:
        self._note_spent()
        self.learner.save(self.place)
        checkpoint.keep(self.place, self.state, ended=False)
        self.saved_at = time.monotonic()

    def _note_spent(self) -> None:
        with suppress(StoreError):  # a checkpoint will tell of a disk that is full
            self.place.note_spent(self.state.flops_spent)
        self.noted_at = time.monotonic()

    def _resume(self) -> None:
        if checkpoint.latest(self.place) is None:
            self._adopt()
        self.ranks.meet()  # the first may have adopted
        found = checkpoint.latest(self.place)
        self.learner = Learner(self.bench, self.run, self.resources, self.ranks, found)
        if found is not None:
            self.tell({"event": "resumed", "run": self.run.id, "step": self.state.step})
        # What was burnt after the checkpoint counts; what a sibling burnt before it does not.
        spent = self.place.spent()
        self.state.flops_spent = self.state.flops_spent if spent is None else spent
        self.place.log(f"goes on from step {self.state.step}" if found else "starts")

    def _adopt(self) -> None:
        """Start from the trunk of a run that differs only in length, where there is one."""
        if self.recipe.schedule != "constant":
            return
        for other in self.folder.siblings(self.run):
            trunk = other.checkpoints("trunk")
            if other.outcome() is None or not trunk:
                continue
            rows = checkpoint.load_state(trunk[max(trunk)]).trunk_rows()
            if not rows or any(self._beyond(b["step"], [a]) for a, b in pairwise(rows)):
                continue  # it went further than this run may
            # Before the first checkpoint is there: the run it comes from has the account of it.
            self.place.note_spent(self.place.spent() or 0.0, sync=True)
            for path in trunk.values():
                self.place.adopt(path)
            self.place.log(f"starts from the trunk of {other.path.name}")
            return

    # --- the end ---

    def _outcome(
        self,
        status: Status,
        sentence: str,
        verdict: Ending | None,
        metrics: dict[str, dict[str, float]] | None = None,
    ) -> Outcome:
        state, trunk = self.state, self.state.trunk_rows()
        last = state.rows[-1] if state.rows else {}
        return Outcome(
            run=self.run.id,
            status=status,
            sentence=sentence,
            ending=verdict,
            step=state.step,
            num_params=self.learner.model.num_params,
            num_params_total=self.learner.model.num_params_total,
            unique_items=len(self.learner.subset),
            tokens_unique=self.bench.dataset.num_tokens(self.learner.subset),
            **{
                name: getattr(state, name)
                for name in (*checkpoint.COUNTERS, "flops", "flops_spent", "seconds", "joules")
            },
            train_loss=last.get("train_loss"),
            val_loss=last.get("val_loss") if status == "finished" else None,
            best_val_loss=min((row["val_loss"] for row in trunk), default=None),
            metrics=metrics or {},
            machine={
                "device": device_name(self.learner.device),
                "torch": torch.__version__,
                "threads": str(torch.get_num_threads()),
                "precision": self.recipe.precision,
                "path": native.path(torch.empty(0, device=self.learner.device)),
                **self.resources.departures(),
            },
        )
