"""The side of transformers in `speed.py`: GPT-Neo on batches padded to their longest molecule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from worker import Peer, serve


class GPTNeo(Peer):
    """`GPTNeoForCausalLM`, with the batches padded beforehand.

    Args:
        job: config, recipe, autocast and device.
        batches: of each the tokens, targets and lengths.
    """

    def __init__(self, job: dict[str, Any], batches: Iterable[tuple[Tensor, Tensor, Tensor]]):
        config = transformers.GPTNeoConfig(**job["config"], use_cache=False)
        self.autocast = job["autocast"]
        path = "bfloat16 autocast" if self.autocast else "eager"
        model = transformers.GPTNeoForCausalLM(config)
        super().__init__(model, job, path, f"transformers {transformers.__version__}")
        self.batches = [self.here(self._padded(*one, config.pad_token_id)) for one in batches]

    @staticmethod
    def _padded(tokens: Tensor, targets: Tensor, lengths: Tensor, pad: int) -> dict[str, Tensor]:
        """(M, longest) ids, mask and labels; the labels are shifted inside the model."""
        each = lengths.tolist()
        pairs = zip(tokens.split(each), targets.split(each), strict=True)
        whole = [torch.cat((some, last[-1:])) for some, last in pairs]
        mask = pad_sequence([torch.ones_like(ids) for ids in whole], batch_first=True)
        return {
            "input_ids": pad_sequence(whole, batch_first=True, padding_value=pad),
            "attention_mask": mask,
            "labels": pad_sequence(whole, batch_first=True, padding_value=-100),
        }

    def loss(self, batch: int) -> Tensor:
        """The mean over tokens that are not padding."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            return self.model(**self.batches[batch]).loss


def stored(job: dict[str, Any]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The batches that `speed.py` wrote."""
    file = np.load(job["file"])
    for k in range(job["num_batches"]):
        tokens, targets, lengths = (
            torch.from_numpy(file[f"{k}/{name}"]) for name in ("tokens", "targets", "lengths")
        )
        yield tokens, targets, lengths


if __name__ == "__main__":
    serve(lambda job: GPTNeo(job, stored(job)))
