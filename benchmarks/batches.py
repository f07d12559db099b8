"""The batches of `speed.py` and `inference.py`, in a file that both sides read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speed import Row

RECIPES = {"molecule": "molecules", "structure": "energy-and-forces"}


def prepare(row: Row, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write the batches to a file that both sides read; return what the workers must know."""
    import numpy as np

    from chemscale.bench.models.base import load_family
    from chemscale.bench.training.recipe import Batches
    from chemscale.bench.training.workbench import Workbench
    from chemscale.table.records import Study

    kind = load_family(row.family)
    molecules = kind.unit == "molecule"
    paths = [
        str(Path(p).resolve()) for p in (options.molecules if molecules else options.structures)
    ]
    named = {"name": "example-molecules" if molecules else "example-structures"}
    study = Study.model_validate(
        {
            "name": "speed",
            "families": {row.family: [row.size]},
            "dataset": {"format": "csv" if molecules else "extxyz", "path": paths}
            if paths
            else named,
            "num_train": [options.batch_size],
            "recipe": {
                "name": RECIPES[kind.unit],
                "batch_size": options.batch_size,
                "precision": "bfloat16" if row.autocast else "float32",
            },
            "budget": {"items": options.batch_size},
        }
    )
    bench = Workbench(study, Path.cwd())
    dataset, recipe = bench.dataset, study.recipe.resolve()
    config = kind.fitted_config(row.size, dataset)
    # Where the data are fewer than the batches hold, epochs follow each other as in training.
    wanted = options.batches * options.batch_size
    subset = dataset.subset(min(wanted, len(dataset.indices("train"))), 0)
    order, collate = Batches(subset, options.batch_size, 0), dataset.collate(config)
    arrays: dict[str, Any] = {}
    useful, slots = [], 0
    for k in range(options.batches):
        batch = collate(order[k])
        arrays[f"{k}/items"] = order[k]
        if molecules:
            given = {
                name: getattr(batch, name).numpy() for name in ("tokens", "targets", "lengths")
            }
            useful.append(len(batch.tokens))
            slots += len(batch.lengths) * (int(batch.lengths.max()) + 1)  # <eos> is fed too
        else:
            given = _labelled(batch, *dataset.references_and_scale(subset))  # type: ignore[attr-defined]
            useful.append(batch.num_structures)
        arrays |= {f"{k}/{name}": value for name, value in given.items()}
    file = folder / f"{row.name}.npz"
    np.savez(file, **arrays)
    return {
        "file": str(file),
        "num_batches": options.batches,
        "threads": options.threads,
        "device": options.device,
        "family": row.family,
        "size": row.size,
        "autocast": row.autocast,
        "study": study.model_dump(mode="json", exclude_unset=True),
        "recipe": recipe.model_dump(mode="json"),
        "config": kind.counterpart.to_config(config) if molecules else config.model_dump(),
        "unit": "tokens" if molecules else "structures",
        "useful": useful,
        "padding": 1 - sum(useful) / slots if molecules else None,
    }


def _labelled(batch: Any, references: Any, scale: float) -> dict[str, Any]:
    """A batch of structures for the peer: float32, labels as our loss sees them."""
    import numpy as np

    structures, numbers = batch.structure.numpy(), batch.atomic_numbers.numpy()
    reference = np.bincount(structures, references[numbers], batch.num_structures)
    offsets = np.zeros((len(batch.senders), 3)) if batch.offsets is None else batch.offsets.numpy()
    return {
        "positions": batch.positions.numpy().astype(np.float32),
        "atomic_numbers": numbers,
        "structure": structures,
        "senders": batch.senders.numpy(),
        "receivers": batch.receivers.numpy(),
        "offsets": offsets.astype(np.float32),
        "atoms_per_structure": batch.atoms_per_structure.numpy().astype(np.int64),
        "energy": ((batch.energy.numpy() - reference) / scale).astype(np.float32),
        "forces": (batch.forces.numpy() / scale).astype(np.float32),
    }
