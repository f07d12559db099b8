"""Every potential sits the exam."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("ase")

from chemscale.bench.models.base import load_family
from chemscale.table.registry import families
from chemscale.testing import PotentialContract


class TestSchNet(PotentialContract):
    family = "schnet"


class TestPaiNN(PotentialContract):
    family = "painn"


@pytest.mark.slow
class TestMACE(PotentialContract):
    family = "mace"


@pytest.mark.slow
class TestAllegro(PotentialContract):
    family = "allegro"


@pytest.mark.slow
class TestSpookyNet(PotentialContract):
    family = "spookynet"


def test_no_potential_joins_the_house_without_an_exam():
    registered = {name for name in families.names() if load_family(name).unit == "structure"}
    examined = {
        value.family
        for name, value in globals().items()
        if name.startswith("Test") and issubclass(value, PotentialContract)
    }
    assert examined == registered
