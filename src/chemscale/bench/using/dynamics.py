"""Whether a potential holds a structure together: molecular dynamics at constant energy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary
from ase.md.verlet import VelocityVerlet
from ase.neighborlist import natural_cutoffs, neighbor_list
from numpy.typing import NDArray

from chemscale.table.errors import DataError

STEP = 0.5  # fs
EVERY = 10  # steps between looks
STRETCH = 0.5  # Å, by which a bond may be off its mean length (Fu et al. 2023)
BATH = 0.5  # ps at the temperature before, or a quarter of the whole where that is less
FRICTION = 0.02  # 1/fs, of the bath


def constant_energy(
    atoms: Atoms,
    calculator: Calculator,
    picoseconds: float,
    *,
    temperature: float = 300.0,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, float]:
    """Run NVE dynamics by velocity Verlet, 0.5 fs a step; it ends where a bond breaks.

    Before that up to 0.5 ps of Langevin dynamics bring it to a temperature (K): a frame of a path
    integral, or of a hotter sample, is no start for dynamics at 300 K. Bonds are the pairs that
    covalent radii make of the start; it is stable while none is off its mean length in the bath by
    more than 0.5 Å (the criterion of Fu et al., "Forces are not enough", TMLR 2023). Liquids in
    which bonds change by nature are not judged by it.

    Returns:
        nve_ps: how long it went, ps; nve_stable: 1 if to the end, else 0; nve_drift: slope of a
        line through the total energy, meV/atom/ps; nve_scatter: root mean square around that line,
        meV/atom; nve_temperature: its mean, K.
    """
    atoms = atoms.copy()
    atoms.calc = calculator
    generator = np.random.default_rng(seed)
    spread = np.sqrt(atoms.get_masses() * units.kB * temperature)[:, None]
    atoms.set_momenta(generator.normal(size=(len(atoms), 3)) * spread)
    bonds = neighbor_list("ijS", atoms, natural_cutoffs(atoms, mult=1.25))
    rest = [_lengths(atoms, bonds)]
    bath = Langevin(
        atoms,
        STEP * units.fs,
        temperature_K=temperature,
        friction=FRICTION / units.fs,
        fixcm=False,
        rng=generator,
    )
    bath.attach(lambda: rest.append(_lengths(atoms, bonds)), interval=EVERY)
    try:
        bath.run(round(1000 * min(BATH, picoseconds / 4) / STEP))
    except DataError:  # atoms on top of each other, or no numbers any more
        return {"nve_ps": 0.0, "nve_stable": 0.0}
    start = np.mean(rest, axis=0)
    Stationary(atoms)
    dynamics = VelocityVerlet(atoms, STEP * units.fs)
    steps = max(1, round(1000 * picoseconds / STEP))
    times, totals, temperatures = [0.0], [atoms.get_total_energy()], [atoms.get_temperature()]
    stable, done = True, 0
    while stable and done < steps:
        more = min(EVERY, steps - done)
        try:
            dynamics.run(more)
        except DataError:
            stable = False
            break
        done += more
        progress(more)
        stable = not len(start) or np.abs(_lengths(atoms, bonds) - start).max() < STRETCH
        if stable:
            times.append(done * STEP / 1000)
            totals.append(atoms.get_total_energy())
            temperatures.append(atoms.get_temperature())
    told = {"nve_ps": times[-1], "nve_stable": float(stable)}
    if len(times) > 2:
        each = 1e3 * (np.array(totals) - totals[0]) / len(atoms)  # meV/atom
        slope, height = np.polyfit(times, each, 1)
        off = each - slope * np.array(times) - height
        told |= {"nve_drift": float(slope), "nve_scatter": float(np.sqrt(np.mean(off**2)))}
        told["nve_temperature"] = float(np.mean(temperatures))
    return told


def _lengths(atoms: Atoms, bonds: tuple[NDArray[np.int64], ...]) -> NDArray[np.float64]:
    i, j, shifts = bonds
    vectors = atoms.positions[j] - atoms.positions[i] + shifts @ atoms.cell.array
    return np.asarray(np.linalg.norm(vectors, axis=1))
