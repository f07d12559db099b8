"""An independent count of FLOPs: every product that PyTorch is asked for, by the shapes it gets.

It knows nothing of model families. The plain path is counted, on real tokens and edges, forward,
backward and the double backward of forces. `torch.utils.flop_counter` would do, but takes fused
attention on CPUs for nothing, and otherwise counts the whole square of which a causal model needs
the triangle.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from chemscale.bench.models.base import Family
from chemscale.bench.nn import native
from chemscale.table.records import Recipe

aten = torch.ops.aten

# Names of operations that multiply matrices: one that is not in the table stops the count.
_SUSPECT = re.compile(
    r"attention|conv|(mm|mv|bmm)$|^(dot|vdot|inner|ger|addr|bilinear)|linear|cdist"
)
_FREE = re.compile(r"^(log_softmax|_log_softmax)")


class Products(TorchDispatchMode):
    """Counts multiply-adds of matrix products and of attention while it is entered.

    Attributes:
        by_operation: multiply-adds by the name of the operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_operation: Counter[str] = Counter()

    @property
    def flops(self) -> int:
        """Two for each multiply-add."""
        return 2 * sum(self.by_operation.values())

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = operation.overloadpacket
        name = packet.__name__
        if packet in _COUNTS:
            self.by_operation[name] += _COUNTS[packet](*args, **kwargs)
        elif _SUSPECT.search(name) and not _FREE.search(name):
            raise NotImplementedError(f"no rule to count {operation}")
        return operation(*args, **kwargs)


def _product(one: Tensor, two: Tensor, **_: Any) -> int:
    """(…, n, k) with (…, k, m) or (k,)."""
    return one.numel() * (two.shape[-1] if two.dim() > 1 else 1)


def _added(_: Tensor, one: Tensor, two: Tensor, **__: Any) -> int:
    return _product(one, two)


def _attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> int:
    """A score for each pair, and a weighted sum."""
    causal = kwargs.get("is_causal", args[1] if len(args) > 1 else False)
    pairs = _pairs(query, key, causal, kwargs.get("attn_mask"))
    return pairs * (query.shape[-1] + value.shape[-1])


def _attention_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> int:
    """Two products for each of the forward; that scores are computed again is no work of ours."""
    causal = kwargs.get("is_causal", args[3] if len(args) > 3 else False)
    pairs = _pairs(query, key, causal, kwargs.get("attn_mask"))
    return 2 * pairs * (query.shape[-1] + value.shape[-1])


def _pairs(query: Tensor, key: Tensor, causal: bool, mask: Tensor | None) -> int:
    """Query-key pairs that are looked at, over all rows and heads."""
    rows, length = prod(query.shape[:-2]), query.shape[-2]
    if mask is not None:
        seen = mask if mask.dtype == torch.bool else torch.isfinite(mask)
        shape = (*query.shape[:-1], key.shape[-2])
        return int(seen.expand(shape).sum())
    return rows * (length * (length + 1) // 2 if causal else length * key.shape[-2])


_COUNTS: dict[Any, Callable[..., int]] = {
    aten.mm: _product,
    aten.bmm: _product,
    aten.mv: _product,
    aten.dot: _product,
    aten.addmm: _added,
    aten.baddbmm: _added,
    aten.addmv: _added,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def count_step(model: Family, batch: Any, recipe: Recipe) -> Products:
    """Count one training step: the loss and its gradient to the weights.

    Of a language model give one molecule at a time: what pads a shorter one is multiplied too.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    counted = Products()
    with native.plain(), counted:
        torch.autograd.backward(model.loss(batch, recipe), inputs=parameters)
    return counted
