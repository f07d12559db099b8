"""What an error says about a run: that it ended, and how; or nothing, when the disk is to blame."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch

from chemscale.table.errors import ChemscaleError, StoreError
from chemscale.table.files import cannot_write, is_trouble
from chemscale.table.records import Run
from chemscale.table.results import Outcome
from chemscale.table.run_folder import RunFolder


def failure(run: Run, place: RunFolder, error: Exception) -> Outcome:
    """How a run ended that met an error; what it burnt is counted.

    Raises:
        StoreError: the error is the machine's (a full disk, say). The run has not ended; the same
            command goes on with it.
    """
    if isinstance(error, StoreError):
        raise error
    if isinstance(error, OSError) and is_trouble(error):
        raise cannot_write(Path(error.filename or place.path), error) from error
    outcome = Outcome(
        run=run.id, status="failed", sentence=str(error), flops_spent=place.spent() or 0.0
    )
    if isinstance(error, ChemscaleError):
        return outcome
    place.log("".join(traceback.format_exception(error)))
    if _is_out_of_memory(error):
        advice = "memory ran out; lower the batch size or the size of the model"
        return outcome.model_copy(update={"status": "out_of_memory", "sentence": advice})
    sentence = f"{type(error).__name__}: {error}; see log.txt"
    return outcome.model_copy(update={"sentence": sentence})


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and ("out of memory" in text or "can't allocate memory" in text)
    )
