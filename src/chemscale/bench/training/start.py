"""What a run starts from instead of chance: the weights that another run ended with.

Of a potential everything is taken but the reference energies, which are those of the new training
subset: total energies of another level of theory lie elsewhere. The scale is taken too, because
the weights were made for it: network output times scale is in eV, and another scale would multiply
all forces of the pre-trained model. Embeddings of elements it never saw start fresh.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

from chemscale.bench.models.base import Family, Potential, load_family
from chemscale.bench.training import checkpoint, tensors
from chemscale.table.errors import DataError, StoreError
from chemscale.table.results import Size
from chemscale.table.store import RunFolder, StudyFolder


def source(given: str | dict[str, str], folder: Path, size: Size) -> Path:
    """The checkpoint that runs of a size start from.

    Args:
        given: `start_from` of the recipe: a run or study folder, or one for each size.
        folder: what relative paths start at.
        size: of the study that starts.

    Raises:
        StoreError: nothing is there, or no final weights of this family and size.
        DataError: the family or its config is another, or it is no potential.
    """
    of = f"start_from for {size.family} {size.size}"
    if isinstance(given, dict):
        if size.size not in given:
            raise DataError(f"{of}: no such size among {', '.join(sorted(given))}; add it")
        given = given[size.size]
    path = folder / Path(given).expanduser()
    if not issubclass(load_family(size.family), Potential):
        raise DataError(f"{of}: only potentials can start from other weights so far")
    if (path / "run.json").is_file():
        found = checkpoint.final(RunFolder(path))
        if found is None:
            raise StoreError(f"{of}: {path} has no final weights; name a run trained to its end")
    else:
        path, found = _best(path, size, of)
    _refuse_another(RunFolder(path), size, of)
    return found


def digest(weights: Path) -> str:
    """Identity of a checkpoint's weights, however many ranks wrote them."""
    files, found = tensors.Files(weights, "weights"), hashlib.sha256()
    for name in files.names:
        value = files[name].contiguous()
        found.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        found.update(value.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()[:20]


@torch.no_grad()
def start(model: Family, weights: Path) -> None:
    """Put pre-trained weights into a freshly built and calibrated potential."""
    files = tensors.Files(weights, "weights")
    known = torch.isfinite(files["references"])  # (101,) by atomic number
    by_element = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and module.num_embeddings == len(known)
    }
    for name, value in model.state_dict().items():
        if name in by_element:
            value[known] = files[name][known].to(value.dtype)
        elif name != "references":
            value.copy_(files[name])


def _best(path: Path, size: Size, of: str) -> tuple[Path, Path]:
    """The run of lowest error on test among those of a study's family and size that have weights.

    Force MAE where there is one: losses of different training subsets differ in their unit.
    """
    if not path.is_dir():
        raise StoreError(f"{of}: {path} is no folder; give that of a run or of a study")
    found = []
    for one in StudyFolder(path).trained():
        if (one.run.trunk.family, one.run.size) != (size.family, size.size) or not one.roles:
            continue
        place = StudyFolder(path).open_run(one.run.id)
        test, weights = one.outcome.metrics.get("test", {}), checkpoint.final(place)
        if weights is not None:
            error = test.get("force_mae", test.get("energy_mae", float("inf")))
            found.append((error, one.run.id, place.path, weights))
    if not found:
        raise StoreError(
            f"{of}: no run of that family and size with final weights in {path}. `chemscale train` "
            "makes them; published studies come without"
        )
    return min(found)[2:]


def _refuse_another(place: RunFolder, size: Size, of: str) -> None:
    trunk = place.run().trunk
    if (trunk.family, trunk.family_revision) != (size.family, size.revision):
        raise DataError(
            f"{of}: {place.path.name} is {trunk.family}, revision {trunk.family_revision}; this "
            f"is {size.family}, revision {size.revision}"
        )
    fields = sorted({*trunk.config, *size.config})
    other = [
        f"{name} is {trunk.config.get(name)!r} there and {size.config.get(name)!r} here"
        for name in fields
        if trunk.config.get(name) != size.config.get(name)
    ]
    if other:
        raise DataError(f"{of}: {place.path.name} has another config: {'; '.join(other)}")
