"""The side of transformers in `speed.py`: GPT-Neo on batches padded to their longest molecule."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from worker import Peer, serve


class GPTNeo(Peer):
    """`GPTNeoForCausalLM`, with the batches padded beforehand."""

    def __init__(self, job: dict[str, Any]):
        config = transformers.GPTNeoConfig(**job["config"], use_cache=False)
        self.autocast = job["autocast"]
        path = "bfloat16 autocast" if self.autocast else "eager"
        model = transformers.GPTNeoForCausalLM(config)
        super().__init__(model, job, path, f"transformers {transformers.__version__}")
        file = np.load(job["file"])
        self.batches = [
            self.here(self._padded(file, k, config.pad_token_id)) for k in range(job["num_batches"])
        ]

    @staticmethod
    def _padded(file: Any, k: int, pad: int) -> dict[str, Tensor]:
        """(M, longest) ids, mask and labels; the labels are shifted inside the model."""
        tokens = np.split(file[f"{k}/tokens"], np.cumsum(file[f"{k}/lengths"])[:-1])
        targets = np.split(file[f"{k}/targets"], np.cumsum(file[f"{k}/lengths"])[:-1])
        whole = [
            torch.from_numpy(np.append(a, b[-1])) for a, b in zip(tokens, targets, strict=True)
        ]
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


if __name__ == "__main__":
    serve(GPTNeo)
