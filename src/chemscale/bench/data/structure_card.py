"""The data card of structures: what their labels are, and what in them is not to be trusted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from chemscale.bench.data import label_checks
from chemscale.bench.data.base import Indices, spans
from chemscale.bench.data.label_checks import Arrays
from chemscale.bench.data.likely_units import SLOPE_FACTOR, Evidence, likely_units
from chemscale.table.files import read_record, write_json
from chemscale.table.record import Record

SHOWN = 5  # structures named in a warning
FEW_PAIRS, MANY_PAIRS, FEW_BONDS = 8, 20, 50  # from which on they count
CORRELATED, NEARLY_EQUAL = 0.7, 0.98
JUMP = 0.1  # eV, by which close structures may differ beside what their forces explain
FAR = 20.0  # typical deviations, from which on an energy is an outlier
APART = 3.0  # spreads, by which two kinds of energies lie apart
UNBALANCED = 0.1  # of what forces that have nothing to do with each other would sum to
CLOSE = 0.5  # Å
STRONG = 100.0  # eV/Å
SQUEEZED = 20.0  # eV/atom, of stress times volume
BOUND = (-20.0, 0.5)  # eV/atom against isolated atoms
SAME = 1e-3  # eV/atom, by which labels of one structure may differ


class Card(Record):
    """What structures and labels are. Å, eV, eV/Å; None where there is nothing to tell."""

    structures: int
    atoms: tuple[int, float, int]  # of a structure: fewest, mean, most
    elements: dict[str, int]  # symbol: atoms
    periodic: int
    configurations: dict[str, int]  # config_type: structures, the most frequent
    isolated: dict[str, float | None]  # symbol: energy
    labels: dict[str, int]  # energy, forces, stress: structures that have it
    units: dict[str, str]  # of the files
    duplicates: int  # beyond the first of each
    nearest: float | None  # smallest distance of two atoms
    energy_per_atom: tuple[float, float, float] | None  # lowest, mean, highest
    references: dict[str, float]  # of elements, by least squares
    residual: float | None  # root mean square about these, eV/atom
    force_rms: float | None
    force_largest: float | None
    net_force: float | None  # on a structure, mean
    pairs: int  # of close structures
    slope: float | None  # of their difference in energy against the work of forces
    correlation: float | None
    stiffness: float | None  # of bonds of C, N and O to hydrogen, eV/Å²
    warnings: tuple[str, ...]

    def sentences(self) -> list[str]:
        """For people; warnings last."""
        fewest, mean, most = self.atoms
        told = [
            f"{self.structures:,} structures of {fewest} to {most} atoms (mean {mean:.1f}) of "
            f"{', '.join(self.elements)}; "
            + ", ".join(f"{label} in {count:,}" for label, count in self.labels.items())
            + (f"; {self.periodic:,} periodic" if self.periodic else "")
            + (f"; {self.duplicates:,} repeated, which num_train counts" if self.duplicates else "")
        ]
        if self.energy_per_atom and self.residual is not None:
            low, _, high = self.energy_per_atom
            by = "with" if self.isolated else "without"
            told.append(
                f"energies {low:.3f} to {high:.3f} eV/atom, {1e3 * self.residual:.1f} meV/atom "
                f"about a sum over elements; {by} isolated atoms"
            )
        if self.force_rms is not None:
            told.append(
                f"forces {self.force_rms:.3g} eV/Å (largest {self.force_largest:.3g}), "
                f"{self.net_force:.2g} on a whole structure"
            )
        if self.slope is not None:
            told.append(
                f"energies and forces: slope {self.slope:.2f} (1 is right), correlation "
                f"{self.correlation:.2f} over {self.pairs:,} pairs of close structures"
            )
        elif self.labels["forces"] and self.labels["energy"]:
            told.append("energies and forces not compared: too few close structures")
        return told + [f"WARNING: {text}" for text in self.warnings]


def make_card(folder: Path, units: dict[str, str], doubts: list[str]) -> None:
    """Look at the columns in a folder, and put `card.json` there.

    Args:
        folder: of the columns.
        units: in which energies, lengths and forces of the files are taken to be.
        doubts: of the reader, for the warnings.
    """
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    write_json(folder / "card.json", _card(arrays, units, doubts))


def read_card(folder: Path) -> Card:
    """The card of a folder."""
    card = read_record(folder / "card.json", Card)
    assert card is not None
    return card


def _card(arrays: Arrays, units: dict[str, str], doubts: list[str]) -> Card:
    sizes, energy = np.diff(arrays["start"]), np.asarray(arrays["energy"])
    there = np.flatnonzero(arrays["counts"].any(axis=0))
    symbols = [chemical_symbols[z] for z in there]
    counts = np.asarray(arrays["counts"][:, there], dtype=np.float64)
    known = np.isfinite(energy) & (sizes > 1)
    has_forces = np.isfinite(arrays["forces"][arrays["start"][:-1], 0]) & (sizes > 1)
    warnings = list(doubts)
    references, residual = {}, np.zeros(0)
    items = np.flatnonzero(known)
    if len(items):
        shares = counts[items] / sizes[items, None]
        each = energy[items] / sizes[items]
        found = np.linalg.lstsq(shares, each, rcond=1e-10)[0]
        references = dict(zip(symbols, found.tolist(), strict=True))
        residual = each - shares @ found
        warnings += _energies(arrays, items, residual)
    looked = label_checks.sample(arrays)
    looked = looked[sizes[looked] > 1]
    slope, correlation, pairs, more = _pairs(arrays, looked)
    warnings += more
    bonds = label_checks.stretching(arrays, looked)
    told = bonds.count >= FEW_BONDS
    warnings += _stresses(arrays, sizes)
    evidence = Evidence(
        total=float(np.median(energy[items] / label_checks.all_electrons(there, counts[items])))
        if len(items)
        else np.nan,
        slope=abs(slope) if abs(correlation) > CORRELATED else np.nan,
        exact=abs(correlation) > NEARLY_EQUAL and pairs >= MANY_PAIRS,
        bond=bonds.length if told else np.nan,
        stiffness=abs(bonds.stiffness) if told and abs(bonds.correlation) > CORRELATED else np.nan,
    )
    other = _units(units, evidence)
    rms, largest, net, more = _forces(arrays, np.flatnonzero(has_forces), strange=bool(other))
    warnings += other + more
    isolated = _isolated(arrays, sizes, there)
    if not other and len(items) and all(isolated.get(s) is not None for s in symbols):
        alone = np.array([isolated[symbol] for symbol in symbols], dtype=np.float64)
        bound = float(np.median((energy[items] - counts[items] @ alone) / sizes[items]))
        if not BOUND[0] < bound < BOUND[1]:
            warnings.append(
                f"structures lie {bound:.3g} eV/atom from the isolated atoms, which no bonding "
                "explains: the isolated atoms are of another level of theory or unit. Drop them "
                "or label them alike"
            )
    duplicates, more = _duplicates(arrays, energy / sizes)
    warnings += more
    near = np.flatnonzero(arrays["nearest"] < CLOSE)
    if len(near):
        near = near[np.argsort(arrays["nearest"][near])]
        warnings.append(
            f"{len(near):,} structures have atoms closer than {CLOSE} Å: {places(arrays, near)}"
        )
    configs = Counter(np.asarray(arrays["config"]).tolist()).most_common(50)
    smallest = float(arrays["nearest"].min())
    return Card(
        structures=len(sizes),
        atoms=(int(sizes.min()), float(sizes.mean()), int(sizes.max())),
        elements=dict(zip(symbols, counts.sum(axis=0).astype(int).tolist(), strict=True)),
        periodic=int(arrays["pbc"].any(axis=1).sum()),
        configurations={str(arrays["configs"][c]): n for c, n in configs if c},
        isolated=isolated,
        labels={
            "energy": int(known.sum()),
            "forces": int(has_forces.sum()),
            "stress": int(np.isfinite(arrays["stress"]).all(axis=(1, 2)).sum()),
        },
        units=units,
        duplicates=duplicates,
        nearest=smallest if np.isfinite(smallest) else None,
        energy_per_atom=(float(each.min()), float(each.mean()), float(each.max()))
        if len(items)
        else None,
        references=references,
        residual=float(np.sqrt(np.mean(residual**2))) if len(items) else None,
        force_rms=rms,
        force_largest=largest,
        net_force=net,
        pairs=pairs,
        slope=slope if pairs >= FEW_PAIRS else None,
        correlation=correlation if pairs >= FEW_PAIRS else None,
        stiffness=bonds.stiffness if told else None,
        warnings=tuple(warnings),
    )


def places(arrays: Arrays, items: Indices) -> str:
    """Where the first of some structures are."""
    named = [f"{arrays['files'][arrays['file'][i]]} {arrays['row'][i]}" for i in items[:SHOWN]]
    return ", ".join(named) + (", …" if len(items) > SHOWN else "")


def _isolated(arrays: Arrays, sizes: Indices, there: Indices) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for z in there:
        single = (sizes == 1) & (arrays["counts"][:, z] > 0)
        if single.any():
            value = float(arrays["energy"][single].mean())
            found[chemical_symbols[z]] = value if np.isfinite(value) else None
    return found


def _energies(arrays: Arrays, items: Indices, residual: NDArray[np.float64]) -> list[str]:
    """Outliers, and energies that fall apart into two kinds."""
    warnings = []
    middle, width, spread = label_checks.gap(residual)
    off = np.abs(residual - np.median(residual))
    if width > APART * spread and width > SAME:
        above = residual > middle
        fewer = items[above if above.sum() * 2 <= len(items) else ~above]
        warnings.append(
            f"energies are of two kinds, {width:.3g} eV/atom apart where each spreads over "
            f"{spread:.2g}: two levels of theory, or two units? The {len(fewer):,} of the fewer: "
            f"{_kinds(arrays, fewer)}. One potential cannot learn both; split the files"
        )
    else:
        far = np.flatnonzero(off > max(FAR * float(np.median(off)) * 1.4826, SAME))
        if len(far):
            far = far[np.argsort(-off[far])]
            warnings.append(
                f"{len(far):,} energies lie more than {FAR:g} typical deviations off what their "
                f"elements explain (up to {off.max():.3g} eV/atom): {places(arrays, items[far])}"
            )
    return warnings


def _kinds(arrays: Arrays, items: Indices) -> str:
    """Which files and configurations some structures are of."""
    files = Counter(arrays["files"][arrays["file"][items]].tolist())
    configs = Counter(arrays["configs"][arrays["config"][items]].tolist())
    named = [*files.most_common(SHOWN), *((c, n) for c, n in configs.most_common(SHOWN) if c)]
    return ", ".join(f"{count:,} of {name}" for name, count in named)


def _pairs(arrays: Arrays, looked: Indices) -> tuple[float, float, int, list[str]]:
    """Slope, correlation and number of close pairs, and what is wrong with them."""
    pairs = label_checks.close_pairs(arrays, looked)
    if len(pairs.work) < FEW_PAIRS:
        return np.nan, 0.0, len(pairs.work), []
    slope, correlation, apart = pairs.fit
    warnings = []
    jumps = np.abs(pairs.difference - slope * pairs.work)[apart]
    jumps = jumps[jumps > JUMP]
    if len(jumps) >= max(5, len(pairs.work) // 100):
        warnings.append(
            f"{len(jumps):,} of {len(pairs.work):,} pairs of close structures differ in energy by "
            f"{np.median(jumps):.3g} eV beside what their forces explain: two levels of theory, "
            "electronic states, or calculations that did not converge"
        )
    if correlation < -CORRELATED:
        warnings.append(
            "energies rise where forces pull: the forces are gradients, of the other sign. A minus "
            "in units.forces of [dataset] turns them, as in '-eV/Å'"
        )
    elif correlation < 0.3 and np.median(pairs.apart) < 0.15 and len(pairs.work) >= MANY_PAIRS:
        warnings.append(
            f"forces do not explain how energies of close structures differ (correlation "
            f"{correlation:.2f} over {len(pairs.work):,} pairs): labels of other structures, or "
            "energies at another level of theory than forces"
        )
    return slope, correlation, len(pairs.work), warnings


def _units(declared: dict[str, str], found: Evidence) -> list[str]:
    likely = likely_units(declared, found)
    # Bonds of no known molecule may still be those of a model, where all else fits.
    if likely is None or (not likely and not abs(np.log(found.slope)) > np.log(SLOPE_FACTOR)):
        return []
    why = []
    if np.isfinite(found.total):
        why.append(f"energies are {found.total:.3g} times those of all electrons of the atoms")
    if np.isfinite(found.slope):
        why.append(f"energies change {found.slope:.3g} times as much as forces say")
    if np.isfinite(found.stiffness):
        why.append(
            f"bonds to hydrogen are {found.bond:.3g} Å long and {found.stiffness:.3g} eV/Å² stiff, "
            "in any molecule about 1.05 and 34"
        )
    taken = ", ".join(f"{what} in {unit}" for what, unit in declared.items())
    if not likely:
        return [f"labels do not fit each other ({taken}): {'; '.join(why)}. No known unit mends it"]
    given = ", ".join(f'{what} = "{unit}"' for what, unit in likely.items())
    ratio = not np.isfinite(found.total) and not np.isfinite(found.stiffness)
    return [
        f"these look like other units than {taken}: {', '.join(why)}. "
        f"If so, set units = {{ {given} }} in [dataset]"
        + ("; only the ratio of energies and forces is known" if ratio else "")
    ]


def _forces(
    arrays: Arrays, items: Indices, strange: bool
) -> tuple[float | None, float | None, float | None, list[str]]:
    """Root mean square, largest, mean net force, and warnings."""
    if not len(items):
        return None, None, None, []
    start = arrays["start"]
    squares, atoms = 0.0, 0
    net, largest = np.zeros(len(items)), np.zeros(len(items))
    for first in range(0, len(items), 10_000):
        part = items[first : first + 10_000]
        sizes = (start[part + 1] - start[part]).astype(np.int64)
        begins = np.cumsum(sizes) - sizes
        forces = arrays["forces"][spans(start[part], sizes)]
        of_atoms = (forces**2).sum(axis=1)
        squares, atoms = squares + float(of_atoms.sum()), atoms + len(forces)
        net[first : first + len(part)] = np.linalg.norm(np.add.reduceat(forces, begins), axis=1)
        largest[first : first + len(part)] = np.sqrt(np.maximum.reduceat(of_atoms, begins))
    rms = float(np.sqrt(squares / (3 * atoms)))
    warnings = []
    sizes = start[items + 1] - start[items]
    if rms > 0 and (unbalanced := float(np.mean(net / (rms * np.sqrt(3 * sizes))))) > UNBALANCED:
        warnings.append(
            f"forces on a structure sum to {net.mean():.3g} eV/Å on average ({unbalanced:.0%} of "
            "what unrelated forces would): atoms were held fixed, or something outside pulls; "
            "a potential of the atoms alone cannot learn that"
        )
    strong = np.flatnonzero(largest > STRONG)
    if len(strong) and not strange:  # in another unit that says nothing
        strong = strong[np.argsort(-largest[strong])]
        warnings.append(
            f"{len(strong):,} structures have forces above {STRONG:g} eV/Å (up to "
            f"{largest.max():.3g}): {places(arrays, items[strong])}"
        )
    return rms, float(largest.max()), float(net.mean()), warnings


def _stresses(arrays: Arrays, sizes: Indices) -> list[str]:
    """Whether stresses are larger than any solid bears, as they are in another unit."""
    volumes = np.abs(np.linalg.det(np.asarray(arrays["cell"], dtype=np.float64)))
    virials = np.asarray(arrays["stress"]) * (volumes / sizes)[:, None, None]  # eV for each atom
    there = np.isfinite(virials).all(axis=(1, 2))
    if not there.any():
        return []
    largest = np.abs(virials[there]).max(axis=(1, 2))
    if (typical := float(np.median(largest))) <= SQUEEZED:
        return []
    return [
        f"stresses times volume are {typical:.3g} eV for each atom (median of the largest "
        "entries), and a solid under 100 GPa has about 5: they look like another unit. If so, set "
        'units = { stress = "GPa" } (or "kbar") in [dataset]; an entry is taken for virials, which '
        "are energies, where its name ends so"
    ]


def _duplicates(arrays: Arrays, each: NDArray[np.float64]) -> tuple[int, list[str]]:
    """How many structures repeat another, and a warning where labels differ."""
    content = np.asarray(arrays["content"][:, 0])
    order = np.argsort(content, kind="stable")
    again = order[1:][content[order][1:] == content[order][:-1]]
    before = order[:-1][content[order][1:] == content[order][:-1]]
    differ = np.abs(each[again] - each[before])
    wrong = again[np.nan_to_num(differ) > SAME]
    if not len(wrong):
        return len(again), []
    return len(again), [
        f"{len(wrong):,} structures are there more than once with energies that differ by up to "
        f"{np.nanmax(differ):.3g} eV/atom: {places(arrays, wrong)}"
    ]
