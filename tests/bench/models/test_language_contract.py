"""Every language model sits the exam."""

import pytest
import torch

from chemscale.bench.models.base import load_family
from chemscale.table.registry import families
from chemscale.testing import LanguageModelContract


class TestChemGPT(LanguageModelContract):
    family = "chemgpt"


@pytest.mark.slow  # 24 layers; the network is that of chemgpt
class TestPaperChemGPT(LanguageModelContract):
    family = "chemgpt-paper"


class TestQwen3(LanguageModelContract):
    family = "qwen3"


def test_no_language_model_joins_the_house_without_an_exam():
    registered = {name for name in families.names() if load_family(name).unit == "molecule"}
    examined = {
        value.family
        for name, value in globals().items()
        if name.startswith("Test") and issubclass(value, LanguageModelContract)
    }
    assert examined == registered


@pytest.mark.parametrize(("size", "named"), [("w128", 4.7e6), ("w256", 19e6), ("w2048", 1.2e9)])
def test_the_released_sizes_are_on_the_paper_s_ladder(size: str, named: float):
    family = load_family("chemgpt-paper")
    config = family.ladder[size].model_copy(update={"vocab_size": 684})
    with torch.device("meta"):
        model = family(config)
    assert (config.num_layers, config.num_heads) == (24, 16)
    assert model.num_params == pytest.approx(named, rel=0.02)
