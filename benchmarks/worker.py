"""What every worker of `speed.py` does: take orders line by line, time steps, answer in JSON.

Runs in the environments of the peers too, so it needs nothing but NumPy and torch.
"""

from __future__ import annotations

import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Side(ABC):
    """One implementation of one model, ready to train."""

    facts: dict[str, Any]  # what the table says about it
    model: torch.nn.Module
    device: torch.device

    @abstractmethod
    def exchange(self, path: str) -> None:
        """Write the weights (ours) or load them (a peer's)."""

    @abstractmethod
    def loss(self, batch: int) -> Tensor:
        """The training loss of one of the batches."""

    def energies(self, batch: int) -> list[float] | None:
        """Of each structure, in units of the labels; None for molecules."""
        return None

    @abstractmethod
    def step(self, batch: int) -> None:
        """One whole training step on one of the batches."""

    def calculator(self) -> Any:
        """The calculator of ASE that users of this package run dynamics with."""
        raise NotImplementedError


class Peer(Side):
    """What the sides of other packages share: our recipe's optimiser, our weights, a step.

    A side says how it is built, which batches it trains on, and its `loss`.
    """

    def __init__(self, model: torch.nn.Module, job: dict[str, Any], path: str, version: str):
        self.device, self.recipe = torch.device(job["device"]), job["recipe"]
        self.model, recipe = model.train().to(self.device), self.recipe
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=recipe["learning_rate"],
            betas=recipe["betas"],
            weight_decay=recipe["weight_decay"],
            fused=True,
        )
        self.facts = {
            "num_params": sum(p.numel() for p in model.parameters()),
            "path": path,
            "version": version,
        }

    def exchange(self, path: str) -> None:
        """Load our weights."""
        weights = {name: torch.from_numpy(value) for name, value in np.load(path).items()}
        missing, unexpected = self.model.load_state_dict(weights, strict=False)
        learnt = {name for name, _ in self.model.named_parameters()}
        assert not unexpected and not learnt & set(missing), (missing, unexpected)

    def here(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch on the device of the model: the peer is spared the way there."""
        return {name: value.to(self.device) for name, value in batch.items()}

    def step(self, batch: int) -> None:
        """Forward, backward, clipping, AdamW."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe["clip"])
        self.optimizer.step()


def huber(
    energy: Tensor, forces: Tensor, labels: dict[str, Tensor], sizes: Tensor, recipe: dict[str, Any]
) -> Tensor:
    """Our loss of potentials: energy per atom and force components, labels in our unit."""
    per_atom = (energy - labels["energy"]) / sizes
    off, delta = forces - labels["forces"], recipe["huber_delta"]
    loss = torch.nn.functional.huber_loss
    return recipe["energy_weight"] * loss(
        per_atom, torch.zeros_like(per_atom), delta=delta
    ) + recipe["forces_weight"] * loss(off, torch.zeros_like(off), delta=delta)


class Moving:
    """A molecule with a side's calculator, moved along frames."""

    def __init__(self, side: Side, job: dict[str, Any]):
        from ase import Atoms

        file = np.load(job["moving"])
        self.frames = file["frames"]
        self.atoms = Atoms(file["numbers"], self.frames[0], calculator=side.calculator())

    def step(self, frame: int) -> Any:
        """Energy and forces of one of the frames, as a step of dynamics asks for them."""
        self.atoms.positions = self.frames[frame]
        self.atoms.get_potential_energy()
        return self.atoms.get_forces()


def serve(start: Callable[[dict[str, Any]], Side]) -> None:
    """Build the side that the first argument describes, then obey until the input ends."""
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    torch.set_num_interop_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    torch.set_float32_matmul_precision("highest")  # no TF32 on a GPU, on either side
    torch.backends.cudnn.allow_tf32 = False
    side = start(job)
    moving: Moving | None = None

    def say(**answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    said = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    say(**side.facts, **said, device=_name(side.device))
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "check":
            side.exchange(order["path"])
            say(**_loss_and_gradient(side), energies=side.energies(0))
        elif order["do"] == "exchange":  # weights, and forces with them
            side.exchange(order["path"])
            moving = Moving(side, job)
            say(forces=moving.step(0).tolist())
        else:
            step = moving.step if moving else side.step
            _wait_for(side.device)
            wall, cpu = time.perf_counter(), time.process_time()
            for batch in order["batches"]:
                step(batch)
            _wait_for(side.device)
            say(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)


def _wait_for(device: torch.device) -> None:
    """A GPU has done what it was given; times are of work, not of orders."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _loss_and_gradient(side: Side) -> dict[str, float]:
    """Loss of the first batch and norm of its gradient: a loss alone would not see a lost term."""
    side.model.zero_grad()
    loss = side.loss(0)
    loss.backward()
    squares = [
        p.grad.double().square().sum() for p in side.model.parameters() if p.grad is not None
    ]
    return {"loss": float(loss.detach()), "gradient": float(sum(squares)) ** 0.5}
