"""Native kernels that come in three: a value, its slopes, and the slopes of those.

Forces are slopes of an energy and are trained by their own slopes, so a kernel NAME has two more
beside it. NAME_backward takes the gradient of the value before the operands, and gives one for each
operand. NAME_twice takes the gradients of these before all that, and gives one for the gradient of
the value and for each operand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from chemscale.bench.nn import native


@dataclass(frozen=True, eq=False)
class Kernel:
    """How the three are called."""

    name: str
    sizes: tuple[int, ...]  # their last arguments
    constants: tuple[Tensor, ...] = ()  # behind the operands; nothing goes back to them
    num_values: int = 1
    scattered: bool = False  # several rows add to one of the value, and of the first operand

    def value(self, shape: tuple[int, ...], *operands: Tensor) -> Tensor:
        """Of that shape; differentiable twice by the operands."""
        found: Tensor = _Value.apply(self, shape, *operands)
        return found

    def slopes(self, gradients: Sequence[Tensor], *operands: Tensor) -> tuple[Tensor, ...]:
        """By each operand, given the gradient of each value; differentiable once more."""
        found: tuple[Tensor, ...] = _Slopes.apply(self, *gradients, *operands)
        return found

    def call(self, order: str, *arguments: Tensor, out: tuple[Tensor, ...]) -> None:
        """Run one of the three."""
        native.call(self.name + order, *arguments, *self.constants, *out, *self.sizes)

    def room(self, like: tuple[Tensor, ...], num_scattered: int) -> tuple[Tensor, ...]:
        """Where results go: zero where rows add up."""
        zeros = num_scattered if self.scattered else 0
        first, rest = like[:zeros], like[zeros:]
        return (*map(torch.zeros_like, first), *map(torch.empty_like, rest))


class _Value(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernel: Kernel, shape: tuple[int, ...], *operands: Tensor) -> Tensor:
        operands = tuple(operand.contiguous() for operand in operands)
        ctx.kernel = kernel
        ctx.save_for_backward(*operands)
        out = operands[0].new_zeros(shape) if kernel.scattered else operands[0].new_empty(shape)
        kernel.call("", *operands, out=(out,))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.kernel.slopes([gradient], *ctx.saved_tensors)


class _Slopes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernel: Kernel, *given: Tensor) -> tuple[Tensor, ...]:
        given = tuple(one.contiguous() for one in given)
        ctx.kernel = kernel
        ctx.save_for_backward(*given)
        out = kernel.room(given[kernel.num_values :], 1)
        kernel.call("_backward", *given, out=out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        out = ctx.kernel.room(ctx.saved_tensors, 2)
        given = [cotangent.contiguous() for cotangent in cotangents]
        ctx.kernel.call("_twice", *given, *ctx.saved_tensors, out=out)
        return None, *out
