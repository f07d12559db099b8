"""Sparse sums of products of features: what tensor algebra on graphs is made of.

A form is a list of terms. Each takes a component of every operand, channel by channel, multiplies
them with a number, and adds to a component of the result. Rows of operands and result are chosen by
edges or atoms. The gradient to an operand is the same form with the result's gradient in its place,
so one kernel gives derivatives of any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chemscale.bench.nn import native
from chemscale.bench.nn.messages import scatter_sum

MOST_OPERANDS = 4  # that the kernel takes

Rows = Tensor | None  # which row each of the L links or atoms takes; None: its own


class Constant:
    """Numbers, given in the precision of whatever they are used with.

    A buffer would be rounded once and for all, and symmetries hold only as far as its digits.
    """

    def __init__(self, values: NDArray[Any]):
        self.values = values
        self._made: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def __call__(self, like: Tensor) -> Tensor:
        """As a tensor of the same type, if it is of floats, and on the same device."""
        floats = self.values.dtype.kind == "f"
        key = (like.dtype if floats else torch.int64), like.device
        if key not in self._made:
            with torch.inference_mode(False):
                self._made[key] = torch.tensor(self.values, dtype=key[0], device=key[1])
        return self._made[key]


class Form:
    """Terms of a product of operands.

    Args:
        components: (1 + operands, T), of the result first.
        values: (T,).
    """

    def __init__(self, components: NDArray[np.int64], values: NDArray[np.float64] | None = None):
        terms = components.shape[1]
        self.components = Constant(np.ascontiguousarray(components, dtype=np.int64))
        # For the kernel, with each in the place of the result: it and what remains, in order.
        self.turned = [
            Constant(np.ascontiguousarray(components[[n, *_others(n, len(components))]], np.int64))
            for n in range(len(components))
        ]
        self.values = Constant(np.ones(terms) if values is None else np.asarray(values, float))
        self._ordered: dict[tuple[int, int], tuple[Constant, ...]] = {}

    @property
    def num_terms(self) -> int:
        """T."""
        return len(self.values.values)

    def ordered(self, wanted: int, count: int) -> tuple[Constant, ...]:
        """Components (operands + 1, T), values (T,) in the order of what is asked for.

        And where the terms of each of its `count` components begin, and the last end: (count + 1,).
        """
        if (wanted, count) not in self._ordered:
            components = self.turned[wanted].values
            order = np.argsort(components[0], kind="stable")
            bounds = np.searchsorted(components[0][order], np.arange(count + 1))
            arranged = np.ascontiguousarray(components[:, order])
            parts = arranged, self.values.values[order], bounds
            self._ordered[wanted, count] = tuple(map(Constant, parts))
        return self._ordered[wanted, count]

    def __call__(self, shape: tuple[int, int], rows: Sequence[Rows], *operands: Tensor) -> Tensor:
        """Sum the terms.

        Args:
            shape: rows and components of the result.
            rows: of the result and of each operand, (L,) where they are not one for each link.
            operands: (rows, components, F), or (rows, components, 1) for all channels alike.

        Returns:
            (rows, components, F).
        """
        channels = max(operand.shape[2] for operand in operands)
        if native.serves(operands[0]) or native.serves_on_gpu(operands[0]):
            # Before the function: what it makes itself and keeps is cut off from the graph.
            operands = tuple(operand.contiguous() for operand in operands)
            shapes = ((*shape, channels), *(tuple(operand.shape) for operand in operands))
            return _Sum.apply(_Call(self, tuple(rows), shapes, 0), *operands)
        components = self.components(operands[0])
        product = self.values(operands[0])[:, None]  # (T, 1)
        for row, component, operand in zip(rows[1:], components[1:], operands, strict=True):
            chosen = operand if row is None else operand.index_select(0, row)
            product = product * chosen.index_select(1, component)  # (L, T, F)
        summed = product.new_zeros(product.shape[0], shape[1], channels)
        summed = summed.index_add(1, components[0], product)
        return summed if rows[0] is None else scatter_sum(summed, rows[0], shape[0])


def _others(wanted: int, count: int) -> list[int]:
    return [n for n in range(count) if n != wanted]


@dataclass(frozen=True, eq=False)
class _Call:
    """A form, and which of its operands and result (number 0) is asked for."""

    form: Form
    rows: tuple[Rows, ...]
    shapes: tuple[tuple[int, ...], ...]
    wanted: int


class _Sum(torch.autograd.Function):
    """Given all but the wanted one, in order."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *given: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(*given)
        shape, own = call.shapes[call.wanted], call.rows[call.wanted] is None
        out = given[0].new_empty(shape) if own else given[0].new_zeros(shape)
        order = [call.wanted, *_others(call.wanted, len(call.shapes))]
        if kernels := native.gpu_kernels(out):
            terms = [part(out) for part in call.form.ordered(call.wanted, shape[1])]
            kernels.multilinear(out, given, [call.rows[n] for n in order], *terms)
            return out
        absent = [0] * (MOST_OPERANDS - len(given))
        rows = [call.rows[n] for n in order]
        counted = [len(row) for row in call.rows if row is not None]
        links = counted[0] if counted else max(shape[0] for shape in call.shapes)
        sizes = [links, call.form.num_terms, max(shape[2] for shape in call.shapes), len(given)]
        sizes += [size for n in order for size in call.shapes[n][1:]]
        components = call.form.turned[call.wanted](out)
        native.call(
            "multilinear", out, *given, *absent, *(0 if row is None else row for row in rows),
            *absent, components, call.form.values(out), torch.tensor(sizes, device=out.device),
        )  # fmt: skip
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        call = ctx.call
        others = _others(call.wanted, len(call.shapes))
        known = dict(zip(others, ctx.saved_tensors, strict=True)) | {
            call.wanted: gradient.contiguous()
        }
        found: list[Tensor | None] = [None]
        for place, asked in enumerate(others, start=1):
            if not ctx.needs_input_grad[place]:
                found.append(None)
                continue
            rest = [known[n] for n in sorted(known) if n != asked]
            found.append(_Sum.apply(_Call(call.form, call.rows, call.shapes, asked), *rest))
        return tuple(found)
