"""How far a potential is off, by element and by kind of structure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from chemscale.bench.data.base import Indices
from chemscale.bench.data.graphs import Structures
from chemscale.bench.training.step import shares
from chemscale.bench.using.trained import TrainedPotential

MOST_EDGES = 50_000  # computed at a time
MOST_KINDS = 30  # kinds of structures told apart


def errors(
    trained: TrainedPotential,
    dataset: Structures,
    items: Indices,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, float]:
    """Errors over structures: metric → value. What has no label is left out.

    Returns:
        energy_mae and energy_rmse, meV/atom; force_mae and force_rmse, meV/Å, over components;
        stress_mae, meV/Å³, over components, of periodic structures that have one;
        force_cosine, the mean over atoms of the cosine between force and label, atoms without a
        force left out; `force_mae.element.X` of atoms of one element; and where structures are of
        several formulas, `force_mae.kind.F` and `energy_mae.kind.F` of each of the commonest; the
        same as `.config.C` where frames are of several `config_type`.
    """
    collate = dataset.collate(trained.config)
    scale = trained.model.scale
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(name: str, values: NDArray[np.float64]) -> None:
        sums[name][0] += float(values.sum())
        sums[name][1] += values.size

    formulas = [dataset.atoms(int(item)).get_chemical_formula() for item in items]
    told_apart = {"kind": _commonest(formulas), "config": _commonest(dataset.configs(items))}
    places = np.arange(len(items))
    [parts] = shares(places, dataset.loads(items, trained.config), MOST_EDGES, 1)
    for part in parts:
        graph = collate(items[part])
        told = trained.model.predict(graph.to(scale.device, scale.dtype))
        sizes = graph.atoms_per_structure.numpy()
        off = 1e3 * (told.energy.cpu().numpy() - graph.energy.numpy()) / sizes  # meV/atom
        labelled = np.isfinite(off)
        add("energy_mae", np.abs(off[labelled]))
        add("energy_rmse", off[labelled] ** 2)
        for what, names in told_apart.items():
            for name in set(names[part].tolist()) - {""}:
                add(f"energy_mae.{what}.{name}", np.abs(off[labelled & (names[part] == name)]))
        wanted = graph.forces.numpy()  # (A, 3)
        there = np.isfinite(wanted).all(axis=1)
        found, wanted = told.forces.double().cpu().numpy()[there], wanted[there]
        wrong = 1e3 * (found - wanted)
        add("force_mae", np.abs(wrong))
        add("force_rmse", wrong**2)
        if told.stress is not None and graph.stress is not None:
            stress = 1e3 * (told.stress.double().cpu().numpy() - graph.stress.numpy())
            add("stress_mae", np.abs(stress[np.isfinite(graph.stress.numpy())]))
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
        felt = lengths > 1e-12
        add("force_cosine", (found * wanted).sum(axis=1)[felt] / lengths[felt])
        numbers = graph.atomic_numbers.numpy()[there]
        for number in np.unique(numbers):
            name = f"force_mae.element.{chemical_symbols[number]}"
            add(name, np.abs(wrong[numbers == number]))
        for what, names in told_apart.items():
            of_atoms = names[part][graph.structure.numpy()[there]]
            for name in set(of_atoms.tolist()) - {""}:
                add(f"force_mae.{what}.{name}", np.abs(wrong[of_atoms == name]))
        progress(len(part))
    means = {name: total / count for name, (total, count) in sums.items() if count}
    return {
        name: float(np.sqrt(value)) if name.endswith("_rmse") else value
        for name, value in means.items()
    }


def _commonest(names: Sequence[str]) -> NDArray[np.str_]:
    """The name of each structure, empty for all but the commonest, and if there is but one."""
    found, counts = np.unique(names, return_counts=True)
    kept = set(found[np.argsort(-counts, kind="stable")][:MOST_KINDS].tolist())
    several = len(found) > 1
    return np.array([name if several and name in kept else "" for name in names], dtype=np.str_)
