"""What a C library's heap makes of a sequence of allocations; run as a program, without torch.

glibc keeps freed memory below 32 MiB for later, and the small objects that PyTorch allocates beside
each tensor settle in it, so that the next tensor of the same size no longer fits: a training run
holds up to twice what its tensors need. How much follows from the order of sizes, so that order is
played to the machine's own `malloc`. Nothing is written to what it returns: no memory is used.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Iterable
from typing import Any

# What PyTorch 2 allocates beside a tensor: an autograd node with its edges, names and saved
# variables, which lives as long as the graph; and the tensor's own headers. Bytes, by experiment.
NODE = (64, 128, 208, 304, 400, 48, 48)
HEADERS = (96, 208, 32, 400)
LOOK_EVERY = 8  # tensors between looks at the heap, which take time

Event = tuple[int, int, bool]  # which storage (below 0: it dies), bytes, whether a node is made


class _Usage(ctypes.Structure):
    """The `mallinfo2` of glibc."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def play(weights: list[int], phases: Iterable[list[Event]], moments_after: int) -> int | None:
    """Largest size of the heap, bytes; None where the C library does not tell.

    Args:
        weights: of the model; there from the start.
        phases: steps and evaluations in order; what does not die in one dies as the next begins.
        moments_after: the phase after which the optimiser's two moments are allocated.
    """
    libc: Any = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return None
    libc.mallinfo2.restype = _Usage
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.posix_memalign.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    malloc, free = libc.malloc, libc.free
    place = ctypes.c_void_p()
    address = ctypes.addressof(place)

    def tensor(size: int) -> list[int]:
        libc.posix_memalign(address, 64, size)
        return [place.value, *map(malloc, HEADERS)]

    before = libc.mallinfo2()
    start = before.uordblks + before.hblkhd
    highest = 0
    for size in weights:
        tensor(size)
    for number, events in enumerate(phases):
        living: dict[int, list[int]] = {}
        nodes: list[int] = []
        for name, size, with_node in events:
            if name < 0:
                for block in living.pop(-name):
                    free(block)
                continue
            if with_node:
                nodes += map(malloc, NODE)
            living[name] = tensor(size)
            if name % LOOK_EVERY == 0:
                usage = libc.mallinfo2()
                highest = max(highest, usage.arena + usage.hblkhd - start)
        if number == moments_after:
            for size in weights:
                tensor(size)
                tensor(size)
        for block in (*nodes, *(block for blocks in living.values() for block in blocks)):
            free(block)
    return highest


def main() -> None:
    """Read one line of JSON, play it, write the bytes."""
    told = json.loads(sys.stdin.readline())
    traces = [[tuple(event) for event in events] for events in told["traces"]]
    phases = [traces[number] for number in told["order"]]
    print(json.dumps(play(told["weights"], phases, told["moments_after"])))


if __name__ == "__main__":
    main()
