"""Several processes that train one run together, as `torchrun` starts them.

Each rank takes a share of every batch and gradients are summed, so the run is the same to rounding
however many there are. Weights are whole on each rank, or `sharded` (FSDP2: Zhao et al. 2023): then
each keeps a part of every matrix, of its gradient and of the optimiser's moments. The first rank
alone writes to the study folder, but for sharded weights, of which each writes its own.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from chemscale.bench.models.base import Family, Seen
from chemscale.table.files import Content, write_folder
from chemscale.table.run_folder import RunFolder

BUCKET = 25_000_000  # bytes of gradients that are summed in one message


@dataclass(frozen=True)
class Ranks:
    """Who trains a run together, and which of them this process is."""

    rank: int = 0
    count: int = 1
    leader: int = 0  # process id of the first
    sharded: bool = False

    @classmethod
    def join(cls, sharded: bool) -> Ranks:
        """Meet the others that `torchrun` started; alone where it did not."""
        if "WORLD_SIZE" not in os.environ:
            return ALONE
        if not distributed.is_initialized():
            on_gpu = torch.cuda.is_available()
            if on_gpu:
                torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            distributed.init_process_group("nccl" if on_gpu else "gloo")
        leader = [os.getpid()]
        distributed.broadcast_object_list(leader)
        rank, count = distributed.get_rank(), distributed.get_world_size()
        return cls(rank, count, leader[0], sharded)

    @property
    def first(self) -> bool:
        """Whether this one writes."""
        return self.rank == 0

    def meet(self) -> None:
        """Wait for the others."""
        if self.count > 1:
            distributed.barrier()

    def leave(self) -> None:
        """End what `join` began."""
        if self.count > 1:
            distributed.destroy_process_group()

    def total(self, numbers: Sequence[int], device: torch.device) -> list[int]:
        """Sum whole numbers over all ranks, one by one."""
        if self.count == 1:
            return list(numbers)
        summed = torch.tensor(numbers, dtype=torch.int64, device=device)
        distributed.all_reduce(summed)
        return summed.tolist()

    def sum(self, values: Tensor) -> Tensor:
        """Sum a tensor over all ranks, in place."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """What each rank has to say, in order, told to all."""
        if self.count == 1:
            return [value]
        told: list[Any] = [None] * self.count
        distributed.all_gather_object(told, value)
        return told

    def all_see(self, parts: Sequence[Seen], device: torch.device) -> Seen:
        """What the parts of all ranks hold together."""
        names = [field.name for field in dataclasses.fields(Seen)]
        sums = [sum(getattr(part, name) for part in parts) for name in names]
        return Seen(**dict(zip(names, self.total(sums, device), strict=True)))

    def place(self, model: Family, device: torch.device) -> None:
        """Move a model to this rank's device; if sharded, its part of each layer and of the rest.

        Work then has to enter by the methods named here, which fetch the weights first.
        """
        if not self.sharded:
            model.to(device)
            return
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        mesh = init_device_mesh(device.type, (self.count,))
        for layer in model.stack():
            fully_shard(layer, mesh=mesh)
        # After an evaluation no backward pass would let go of what the model itself has fetched.
        fully_shard(model, mesh=mesh, reshard_after_forward=True)
        for name in ("loss", "measure"):
            register_fsdp_forward_method(model, name)

    def backward(self, loss: Tensor, parameters: list[nn.Parameter]) -> None:
        """Add the gradients of a part's loss."""
        if self.sharded:
            (loss * self.count).backward()  # gradients are averaged as they are spread
        else:
            # Only the weights: a gradient to the positions would be work for nothing.
            torch.autograd.backward(loss, inputs=parameters)

    def sum_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Sum the gradients over the ranks, where that was not done on the way back."""
        if self.count == 1 or self.sharded:
            return
        waiting: list[Tensor] = []
        for parameter in parameters:
            if parameter.grad is None:  # a part of the network that this share did not reach
                parameter.grad = torch.zeros_like(parameter)
            waiting.append(parameter.grad)
            if sum(g.numel() * g.element_size() for g in waiting) > BUCKET:
                _sum_together(waiting)
                waiting = []
        _sum_together(waiting)


def _sum_together(gradients: list[Tensor]) -> None:
    if gradients:
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


class Onlooker(RunFolder):
    """A run's folder to the ranks that do not write, but for their part of a checkpoint."""

    @contextmanager
    def hold(self) -> Iterator[bool]:
        """The first holds it for all."""
        yield True

    def save_checkpoint(self, name: str, files: Mapping[str, Content], **together: Any) -> Path:
        """Add this rank's files."""
        target = self.path / "checkpoints" / name
        if together and files:
            write_folder(target, files, **together)
        return target

    def _leave_alone(self, *_: Any, **__: Any) -> None:
        return None

    write_outcome = note_spent = adopt = keep_checkpoints = write_curve = log = _leave_alone


ALONE = Ranks()
