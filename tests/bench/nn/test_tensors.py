"""Tensor algebra agrees with e3nn, and turns as it says."""

import itertools
import warnings

import numpy as np
import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # e3nn's own, at import
    o3 = pytest.importorskip("e3nn.o3")

from chemscale.bench.nn import native
from chemscale.bench.nn.contraction import SymmetricContraction, basis
from chemscale.bench.nn.spherical import coupling, spherical_harmonics
from chemscale.bench.nn.tensors import ChannelProduct, Mix, Product, Spread, paths_to, place
from chemscale.testing.toys import rotation

DOUBLE = torch.float64


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def directions(count: int) -> torch.Tensor:
    return torch.nn.functional.normalize(random(count, 3), dim=1)


def turn(features: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Features (…, components, F) after a rotation, which harmonics themselves say."""
    l_max = int(features.shape[1] ** 0.5) - 1
    points = directions(100)
    before, after = (spherical_harmonics(p, l_max) for p in (points, points @ matrix.T))
    representation = torch.linalg.lstsq(before, after).solution.T  # (components, components)
    return torch.einsum("ij,ajf->aif", representation, features)


@pytest.fixture
def matrix() -> torch.Tensor:
    return -torch.from_numpy(rotation())  # with inversion


def test_spherical_harmonics_are_those_of_e3nn():
    points = directions(50)
    expected = o3.spherical_harmonics(list(range(7)), points, True, "component")
    assert (spherical_harmonics(points, 6) - expected).abs().max() < 1e-10


@pytest.mark.parametrize(("first", "second"), list(itertools.product(range(4), repeat=2)))
def test_couplings_are_those_of_e3nn(first, second):
    for third in range(abs(first - second), min(first + second, 4) + 1):
        expected = o3.wigner_3j(first, second, third, dtype=DOUBLE).numpy()
        assert np.abs(coupling(first, second, third) - expected).max() < 1e-10


def test_what_makes_no_triangle_does_not_couple():
    assert not coupling(1, 1, 3).any()


def test_products_with_harmonics_are_those_of_e3nn():
    product = Product(1, 3, 3)
    features, harmonics = random(6, 4, 5), random(9, 16, seed=1)
    weights = random(9, len(product.paths), 5, seed=2)
    senders, receivers = torch.arange(9) % 6, torch.arange(9) // 2
    found = product.gather(features, harmonics, weights, senders, receivers)
    rows = []
    for number, (one, two, three) in enumerate(product.paths):
        # e3nn's normalisation by component: the root of the dimension of what comes out.
        numbers = o3.wigner_3j(one, two, three, dtype=DOUBLE) * (2 * three + 1) ** 0.5
        sent = torch.einsum(
            "ijk,eif,ej,ef->ekf", numbers, features[senders][:, place(one)],
            harmonics[:, place(two)], weights[:, number],
        )  # fmt: skip
        rows.append(torch.zeros(6, 2 * three + 1, 5, dtype=DOUBLE).index_add(0, receivers, sent))
    assert (found - torch.cat(rows, dim=1)).abs().max() < 1e-10


def test_the_two_ways_to_gather_products_agree():
    product = Product(2, 2, 2)
    given = random(6, 9, 5), random(9, 9, seed=1), random(9, len(product.paths), 5, seed=2)
    ends = torch.arange(9) % 6, torch.arange(9) // 2
    with native.plain():
        expected = product.gather(*given, *ends)
    torch.testing.assert_close(product.gather(*given, *ends), expected)


def test_products_of_features_turn_with_them(matrix):
    product = ChannelProduct(2, 2, 2)
    mix = Mix(paths_to(product), 5, 3).to(DOUBLE)
    one, two, owners = random(7, 9, 5), random(4, 9, 5, seed=1), torch.arange(7) % 4
    before = mix(product(one, two, owners))
    after = mix(product(turn(one, matrix), turn(two, matrix), owners))
    assert (after - turn(before, matrix)).abs().max() < 1e-9 * before.abs().max()


def test_harmonics_spread_over_channels_turn_with_the_edge(matrix):
    weights, points = random(7, 3, 5), directions(7)
    before = Spread(2)(weights, spherical_harmonics(points, 2))
    after = Spread(2)(weights, spherical_harmonics(points @ matrix.T, 2))
    assert (after - turn(before, matrix)).abs().max() < 1e-9


@pytest.mark.parametrize("target", [0, 1, 2])
def test_a_symmetric_contraction_turns_with_its_features(target, matrix):
    contraction = SymmetricContraction(2, target, 3, 2, 5).to(DOUBLE)
    features, elements = random(7, 9, 5), torch.arange(7) % 2
    before = contraction(features, elements)
    after = contraction(turn(features, matrix), elements)
    assert (after - turn(before, matrix)).abs().max() < 1e-9 * before.abs().max()


@pytest.mark.parametrize("target", [0, 1])
def test_the_polynomials_are_all_that_there_are(target):
    """As many as the character of the symmetric cube, averaged over all rotations, says."""
    angles = (np.arange(4000) + 0.5) * np.pi / 4000
    measure = (1 - np.cos(angles)) / 4000

    def character(degrees, angle):
        return sum(np.sin((n + 0.5) * angle) / np.sin(angle / 2) for n in degrees)

    def parity_kept(angle, sign):
        # An improper rotation is a rotation and an inversion, which turns odd l around.
        def one(power):
            flip = sign**power
            return sum(flip**n * character([n], power * angle) for n in range(3))

        cube = (one(1) ** 3 + 3 * one(1) * one(2) + 2 * one(3)) / 6
        return cube * sign**target * character([target], angle)

    both = (parity_kept(angles, 1) + parity_kept(angles, -1)) / 2
    count = float((both * measure).sum())
    assert len(basis(2, 3, target)) == pytest.approx(count, abs=1e-3)
