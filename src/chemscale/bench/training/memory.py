"""Memory of a training run, predicted before it starts.

One step and one evaluation are traced on the meta device, where tensors have sizes and no content:
each storage's birth and death is noted, the double backward's too. A model of 10⁹ parameters is
traced as fast as one of 10⁴, and takes no more memory. What is counted: weights, gradients, AdamW's
two moments, what is kept for the backward passes, what comes and goes.

On CPUs that is played to the machine's heap (`heap`), which holds more than is in use. Not counted:
the interpreter, torch and the dataset; `process_bytes` says what these take.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from chemscale.bench.models.base import Family, Potential
from chemscale.bench.nn import native
from chemscale.bench.training import heap
from chemscale.bench.training.heap import Event
from chemscale.table.errors import ChemscaleError
from chemscale.table.records import Recipe

META = torch.device("meta")
# Pages of torch's and MKL's libraries that the first steps bring in, bytes: measured.
FIRST_USE = 85_000_000
HELD = 2 / 3  # of what the heap seems to hold in vain: by experiment
CUDA_CONTEXT = 600_000_000  # of the driver and its libraries on a GPU, bytes


def peak_bytes(
    model: Family,
    parts: Sequence[Any],
    evaluated: Any,
    recipe: Recipe,
    device: torch.device,
    shards: int = 1,
) -> int:
    """Most memory that a process holds for a run, beyond what it takes itself.

    Args:
        model: on the meta device.
        parts: of the largest batch that training meets, or nearly, as far as they are computed
            here; the largest one or two are enough.
        evaluated: a batch of an evaluation.
        recipe: of the run.
        device: where it will run.
        shards: ranks over which weights, gradients and moments are spread.
    """
    step = trace(lambda: train(model, parts, recipe), device)
    model.zero_grad(set_to_none=True)
    judged = trace(lambda: evaluate(model, evaluated, recipe), device)
    weights = [p.numel() * p.element_size() for p in model.parameters()]
    total = sum(weights)
    kept = 3 + (recipe.ema > 0)  # weights, AdamW's two moments, the average
    if shards > 1:
        # A layer's weights and gradients are whole while it is at work, those of the next already.
        layers = [sum(p.numel() * p.element_size() for p in m.parameters()) for m in model.stack()]
        rest = total - sum(layers)
        whole = rest + 4 * max(layers, default=0)
        return (kept + 1) * total // shards + whole + max(live(step) - total, live(judged), 0)
    need = kept * total + max(live(step), live(judged))
    if device.type != "cpu":
        return need
    held = (_in_heap(weights * (kept - 2), [judged, step], order=[0, 1, 1, 1]) or need) - need
    return need + round(HELD * max(0, held))


def live(events: Sequence[Event]) -> int:
    """Most bytes alive at once."""
    now = most = 0
    sizes: dict[int, int] = {}
    for name, size, _ in events:
        if name > 0:
            sizes[name] = size
            now += size
            most = max(most, now)
        else:
            now -= sizes.pop(-name)
    return most


def process_bytes() -> int:
    """What a worker takes before its model is built, judged by this process: measured now."""
    try:
        resident = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 300_000_000 + FIRST_USE
    return resident * os.sysconf("SC_PAGE_SIZE") + FIRST_USE


def machine_bytes(device: torch.device) -> int:
    """Memory that runs may fill: of the GPU, or of the machine within its control group."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _group_limits():
        with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
            limits.append(int(file.read_text()))
    return min(limits)


def _group_limits() -> Iterator[Path]:
    """Files that limit this process, its control group's and those of the groups around it."""
    root = Path("/sys/fs/cgroup")
    yield root / "memory.max"
    yield root / "memory/memory.limit_in_bytes"  # version 1
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, kinds, path = line.split(":", 2)
            inner = Path(path.lstrip("/"))
            for group in (inner, *inner.parents):
                if number == "0":
                    yield root / group / "memory.max"
                elif "memory" in kinds.split(","):
                    yield root / "memory" / group / "memory.limit_in_bytes"


# --- whether it fits ---


@dataclass(frozen=True)
class Need:
    """What one process of a run takes."""

    run: str  # in words
    peak: int  # bytes, without the process
    processes: int  # of the run
    ways: Callable[[], Iterator[tuple[str, int | None]]]  # to need less, and the peak then


def refuse_what_does_not_fit(needs: Sequence[Need], workers: int, device: torch.device) -> None:
    """Say so before anything is trained.

    Args:
        needs: of the runs that are to be trained.
        workers: how many are trained at a time.
        device: where.

    Raises:
        ChemscaleError: a run alone, or the largest together, take more than the machine has.
    """
    if not needs:
        return
    has = machine_bytes(device)
    process = process_bytes() if device.type == "cpu" else CUDA_CONTEXT
    where = "this machine has" if device.type == "cpu" else "its GPU has"
    most = max(needs, key=lambda need: need.peak)
    if most.peak + process > has:
        raise ChemscaleError(
            f"{most.run} does not fit: training it takes about {_words(most.peak + process)} "
            f"({_words(most.peak)}, and {_words(process)} for the process), {where} "
            f"{_words(has)}. {_advice(most, has - process)}"
        )
    # A machine's memory is for all processes; GPUs are dealt out among them.
    places = torch.cuda.device_count() if device.type == "cuda" else 1
    largest = sorted(needs, key=lambda need: -need.peak)[:workers]
    each = [need.peak + process for need in largest for _ in range(need.processes)]
    together = sum(each[: -(-len(each) // places)])
    if together > has:
        fit = places * (has // each[0]) // most.processes
        raise ChemscaleError(
            f"{len(largest)} runs at a time do not fit: the largest take about {_words(together)} "
            f"together{' on one GPU' if device.type == 'cuda' else ''}, {where} {_words(has)}. "
            + (f"--workers {fit} makes it fit" if fit else "fewer --ranks take less")
        )


def _advice(need: Need, room: int) -> str:
    for way, peak in need.ways():
        if peak is not None and peak <= room:
            return f"It would fit with {way}"
    return "Nothing makes it fit: train a smaller size, or on a machine with more memory"


def _words(count: int) -> str:
    return f"{count / 1e9:.3g} GB"


# --- the trace ------------------------------------------------------------------------------------


def train(model: Family, parts: Sequence[Any], recipe: Recipe) -> None:
    """What of a training step takes memory: forward and backward, part by part."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    for part in parts:
        torch.autograd.backward(model.loss(part, recipe), inputs=parameters)


def evaluate(model: Family, batch: Any, recipe: Recipe) -> None:
    """What of an evaluation takes memory."""
    if isinstance(model, Potential):
        model.interaction(batch, training=False, strained=batch.stress is not None)
    else:
        with torch.no_grad():
            model.loss(batch, recipe)


def trace(work: Callable[[], None], device: torch.device) -> list[Event]:
    """Births and deaths of storages while work is done on the meta device."""
    events: list[Event] = []
    # The kernels' outputs are allocated; the kernels do nothing. Autocast knows no meta device:
    # bfloat16 is counted as single precision.
    with contextlib.ExitStack() as ways:
        if device.type == "cpu" and native.library() is not None:
            ways.enter_context(native.shapes("cpu"))
        else:
            ways.enter_context(_FusedAttention())
            if device.type == "cuda" and native.on_gpu() is not None:
                ways.enter_context(native.shapes("cuda"))
        ways.enter_context(_Storages(events))
        work()
    return list(events)


class _Storages(TorchDispatchMode):
    """Notes when storages come and go; none but the meta device's own."""

    def __init__(self, events: list[Event]):
        super().__init__()
        self.events = events
        self.names: dict[int, tuple[int, Any]] = {}
        self.born = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if operation is torch.ops.aten.nonzero.default and args[0].is_meta:
            # What a mask keeps is not known; of the edges of a graph it is one a pair: half.
            found = torch.empty(
                ((args[0].numel() + 1) // 2, args[0].dim()), dtype=torch.int64, device=META
            )
        else:
            found = operation(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, list | tuple) else (found,):
            if isinstance(tensor, Tensor) and tensor.is_meta:
                self._note(tensor)
        return found

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place = storage._cdata
        if place in self.names:
            return
        self.born += 1
        name = self.born
        size = storage.nbytes()
        # A node of the graph is made where gradients are on and something is kept for them.
        self.events.append((name, size, torch.is_grad_enabled()))

        def dies(_: object) -> None:
            del self.names[place]
            self.events.append((-name, size, False))

        self.names[place] = name, weakref.ref(storage, dies)


class _FusedAttention(TorchFunctionMode):
    """Attention as devices do it, without a matrix of scores; the meta device would make one."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.nn.functional.scaled_dot_product_attention:
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                *args[:3],
                0.0,
                kwargs.get("is_causal", False),
                attn_mask=kwargs.get("attn_mask"),
                scale=kwargs.get("scale"),
            )[0]
        return function(*args, **kwargs)


def _in_heap(weights: list[int], traces: list[list[Event]], order: list[int]) -> int | None:
    """Play a run's first steps to a heap of its own; None where that cannot be told."""
    order_text = json.dumps(
        {"weights": weights, "traces": traces, "order": order, "moments_after": 1}
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(heap.__file__)],
        input=order_text + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    found: int | None = json.loads(done.stdout)
    return found
