"""Draw sequences of tokens from a language model.

Each sequence has its own stream of random numbers, keyed by (seed, its number), and takes one of
them a token: which slot it lies in, and what else is drawn, changes nothing beyond rounding.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chemscale.bench.data.token_batch import BOS, EOS, PAD, UNK
from chemscale.bench.models.base import LanguageModel
from chemscale.bench.models.decoding import Decoder

NEVER = [PAD, BOS, UNK]  # no training target, so whatever chance a model gives them is an accident


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest token always.
        top_k: only the k likeliest tokens; ties with the last of them stay.
        top_p: only the fewest likeliest tokens whose chances reach p, at least one.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def chances(self, logits: Tensor) -> Tensor:
        """Logits (R, V) to chances of the next token (R, V), in double precision."""
        logits = logits.double()
        logits[:, NEVER] = -torch.inf
        if self.temperature == 0:
            return torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1]).double()
        logits /= self.temperature
        if self.top_k is not None and self.top_k < logits.shape[1]:
            least = logits.topk(self.top_k, dim=1).values[:, -1:]
            logits[logits < least] = -torch.inf
        chances = logits.softmax(dim=1)
        if self.top_p is not None and self.top_p < 1:
            ordered, places = chances.sort(dim=1, descending=True)
            beyond = ordered.cumsum(dim=1) - ordered >= self.top_p
            chances = torch.zeros_like(chances).scatter(1, places, ordered.masked_fill(beyond, 0))
        return chances

    def draw(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """The token where the summed chances pass a uniform number: (R, V), (R,) to (R,)."""
        heights = self.chances(logits).cumsum(dim=1)  # not normalised after top_p
        wanted = uniform[:, None] * heights[:, -1:]
        # The largest uniform number is 1 - 2⁻⁵³; rounded up it would lie beyond the last token.
        wanted = wanted.minimum(heights[:, -1:] * (1 - 1e-15))
        return torch.searchsorted(heights, wanted, right=True)[:, 0]


@torch.no_grad()
def sample(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    seed: int,
    batch_size: int,
    max_length: int,
    progress: Callable[[int], None] = lambda done: None,
) -> list[NDArray[np.int64]]:
    """Continue prompts until <eos>.

    On a CPU every thread that PyTorch may use works on a share of the prompts by itself.

    Args:
        model: in evaluation mode.
        prompts: tokens that each sequence begins with, after <bos>.
        sampling: how tokens are drawn.
        seed: of the streams of random numbers.
        batch_size: sequences at once, all threads together; one that ends makes room for the next.
        max_length: the most tokens, <bos> included and <eos> not, as the model was made for.
        progress: told how many more sequences have ended.

    Returns:
        For each prompt its tokens without <bos>; the last is <eos> unless `max_length` came first.
    """
    device = next(model.parameters()).device
    count = torch.get_num_threads() if device.type == "cpu" else 1
    count = max(1, min(count, len(prompts), batch_size))
    ended: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * len(prompts)
    share = -(-min(batch_size, len(prompts)) // count)
    decoder = model.decoder(share)
    decoders = [decoder, *(decoder.another() for _ in range(count - 1))]

    def work(first: int) -> None:
        mine = range(first, len(prompts), count)
        slots = min(share, len(mine))
        worker = _Sampler(decoders[first], device, sampling, seed, slots, max_length)
        for number, tokens in worker.run((n, prompts[n]) for n in mine):
            ended[number] = tokens
            progress(1)

    if count == 1:
        work(0)
        return ended
    context = contextvars.copy_context()

    def start() -> None:
        torch.set_num_threads(1)  # of this thread; those that begin later inherit it too

    def alone(first: int) -> None:
        with torch.no_grad():  # of a thread, as the number of threads is
            context.copy().run(work, first)

    try:
        with ThreadPoolExecutor(count, initializer=start) as pool:
            list(pool.map(alone, range(count)))
    finally:
        torch.set_num_threads(count)
    return ended


class _Sampler:
    """Slots that sequences pass through, all one token further at each step."""

    def __init__(
        self,
        decoder: Decoder,
        device: torch.device,
        sampling: Sampling,
        seed: int,
        num_slots: int,
        max_length: int,
    ):
        self.decoder, self.device = decoder, device
        self.sampling, self.seed = sampling, seed
        self.max_length = max_length
        self.number = np.full(num_slots, -1)  # which sequence lies in each slot
        # What is fed at each place, then what followed: (S, max_length + 1); -1 is to be drawn.
        self.text = np.full((num_slots, max_length + 1), -1)
        self.uniform = np.zeros((num_slots, max_length))

    def run(
        self, waiting: Iterator[tuple[int, Sequence[int]]]
    ) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Take sequences until none waits; yield each when it ends."""
        slots = np.arange(len(self.number))
        positions = np.zeros_like(slots)
        for index in range(len(slots)):
            self._begin(index, *next(waiting))
        while len(slots):
            logits = self.decoder.step(
                *map(self._there, (self.text[slots, positions], positions, slots))
            )
            uniform = self._there(self.uniform[slots, positions])
            drawn = self.sampling.draw(logits, uniform).cpu().numpy()
            positions += 1
            given = self.text[slots, positions]
            tokens = np.where(given < 0, drawn, given)
            self.text[slots, positions] = tokens
            over = (tokens == EOS) | (positions == self.max_length)
            if not over.any():
                continue
            kept = np.ones(len(slots), dtype=bool)
            for row in np.flatnonzero(over):
                slot = int(slots[row])
                yield int(self.number[slot]), self.text[slot, 1 : positions[row] + 1].copy()
                following = next(waiting, None)
                if following is None:
                    kept[row] = False
                else:
                    self._begin(slot, *following)
                    positions[row] = 0
            slots, positions = slots[kept], positions[kept]

    def _begin(self, slot: int, number: int, prompt: Sequence[int]) -> None:
        self.number[slot] = number
        self.text[slot] = -1
        self.text[slot, : len(prompt) + 1] = [BOS, *prompt]
        stream = np.random.Generator(np.random.Philox(key=[self.seed, number]))
        self.uniform[slot] = stream.random(self.max_length)

    def _there(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self.device)
