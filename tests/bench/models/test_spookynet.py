"""What is left of SpookyNet's interactions far away, and what it does with charge."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from chemscale.bench.models.base import build
from chemscale.bench.models.spookynet import SpookyNet
from chemscale.bench.nn.physics import COULOMB, Dispersion, Repulsion, smooth_step
from chemscale.testing.toys import Structure, graph_of, toy_molecules

DOUBLE = torch.float64


def model(**options: bool) -> SpookyNet:
    """With random weights where they start at zero."""
    made = build(SpookyNet, SpookyNet.Config(width=8, **options), 0, DOUBLE)
    assert isinstance(made, SpookyNet)
    made.references.zero_()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.dim() > 1 and not weight.any():
                weight.normal_(std=0.3, generator=generator)
    return made


def pair(distance: float, charge: int = 1) -> Structure:
    """Two molecules, their nearest atoms about so far apart."""
    one, two = toy_molecules(2, seed=3)
    places = np.concatenate([one.positions, two.positions + [distance, 0, 0]])
    return Structure(np.concatenate([one.numbers, two.numbers]), places, charge=charge)


def pull(network: SpookyNet, structure: Structure) -> np.ndarray:
    """Force on the first molecule, eV/Å."""
    _, forces = network(graph_of([structure], 4.0))
    return forces[: len(toy_molecules(1, seed=3)[0].numbers)].sum(dim=0).numpy()


def test_far_apart_two_fragments_feel_the_coulomb_force_of_their_charges():
    network, structure = model(dispersion=False), pair(200.0)
    graph = graph_of([structure], 4.0)
    charges = partial_charges(network, graph)
    size = len(toy_molecules(1, seed=3)[0].numbers)
    assert charges.sum() == pytest.approx(1.0, abs=1e-12)
    places = graph.positions.numpy()
    lines = places[:size, None] - places[None, size:]
    lengths = np.linalg.norm(lines, axis=2)
    products = charges[:size, None] * charges[None, size:]
    expected = (COULOMB * products / lengths**3)[:, :, None] * lines
    assert np.abs(expected).sum() > 1e-8
    assert pull(network, structure) == pytest.approx(expected.sum(axis=(0, 1)), rel=1e-9)


def test_without_charges_nothing_pulls_from_beyond_the_cutoff():
    network = model(electrostatics=False, dispersion=False)
    assert np.abs(pull(network, pair(12.0))).max() < 1e-12
    assert np.abs(pull(network, pair(3.0))).max() > 1e-6


def test_without_charges_attention_still_ties_fragments_at_any_distance():
    network = model(electrostatics=False, dispersion=False)
    one, two = toy_molecules(2, seed=3)
    apart, _ = network(graph_of([one, two], 4.0))
    together = [float(network(graph_of([pair(d, charge=0)], 4.0))[0]) for d in (50.0, 500.0)]
    assert together[0] == pytest.approx(together[1], rel=1e-12)
    assert abs(together[0] - float(apart.sum())) > 1e-6


def test_dispersion_falls_off_with_the_sixth_power():
    network = model(electrostatics=False)
    far = [abs(pull(network, pair(d))[0]) for d in (100.0, 200.0)]
    assert far[0] / far[1] == pytest.approx(2.0**7, rel=0.1)


def test_charges_sum_to_the_charge_of_each_structure():
    network = model()
    structures = [dataclasses.replace(s, charge=q) for s, q in zip(
        toy_molecules(3, seed=3), (0, 1, -2), strict=True)]  # fmt: skip
    graph = graph_of(structures, 4.0)
    charges = torch.from_numpy(partial_charges(network, graph))
    totals = torch.zeros(3, dtype=DOUBLE).index_add(0, graph.structure, charges)
    assert totals.tolist() == pytest.approx([0, 1, -2], abs=1e-12)


def partial_charges(network: SpookyNet, graph: Any) -> np.ndarray:
    found = []
    network.readout.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    network(graph)
    return network.partial_charges(graph, found[0]).detach().numpy()


def test_repulsion_starts_as_that_of_ziegler_biersack_and_littmark():
    distances = torch.tensor([0.3, 0.3], dtype=DOUBLE)
    ends = torch.tensor([0, 1]), torch.tensor([1, 0])
    found = Repulsion(100.0).double()(torch.tensor([6, 8]), distances, *ends).sum().detach()
    length = 0.8854 * 0.529177 / (6**0.23 + 8**0.23)
    x = 0.3 / length
    terms = ((0.18175, 3.1998), (0.50986, 0.94229), (0.28022, 0.4029), (0.02817, 0.20162))
    expected = 14.39964 * 48 / 0.3 * sum(a * np.exp(-b * x) for a, b in terms)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_dispersion_starts_with_the_free_atoms():
    """Two far argon atoms: C₆ of 64.2 atomic units, which are 38.4 eV Å⁶."""
    ends = torch.tensor([0, 1]), torch.tensor([1, 0])
    distances = torch.full((2,), 30.0, dtype=DOUBLE)
    numbers, charges = torch.tensor([18, 18]), torch.zeros(2, dtype=DOUBLE)
    found = Dispersion().double()(numbers, charges, distances, *ends).sum().detach()
    assert float(found) == pytest.approx(-64.2 * 27.2114 * 0.529177**6 / 30.0**6, rel=1e-2)


def test_the_switch_is_flat_at_both_ends():
    x = torch.linspace(-0.5, 1.5, 201, dtype=DOUBLE, requires_grad=True)
    (slope,) = torch.autograd.grad(smooth_step(x).sum(), x)
    ends = (x < 0.01) | (x > 0.99)
    assert slope[ends].abs().max() < 1e-9 and slope.min() >= 0
