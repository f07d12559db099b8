"""Every language model sits the exam."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("rdkit")

from chemscale.bench.models.base import load_family
from chemscale.table.registry import families
from chemscale.testing import LanguageModelContract


class TestChemGPT(LanguageModelContract):
    family = "chemgpt"


def test_no_language_model_joins_the_house_without_an_exam():
    registered = {name for name in families.names() if load_family(name).unit == "molecule"}
    examined = {
        value.family
        for name, value in globals().items()
        if name.startswith("Test") and issubclass(value, LanguageModelContract)
    }
    assert examined == registered
