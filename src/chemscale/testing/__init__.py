"""Exams for plug-ins, ours and anybody's; needs pytest and the `train` extra.

class TestMine(PotentialContract):
    family = "mine"
"""

import pytest

pytest.register_assert_rewrite(
    "chemscale.testing.executors",
    "chemscale.testing.families",
    "chemscale.testing.languages",
    "chemscale.testing.potentials",
)

from chemscale.testing.executors import ExecutorContract
from chemscale.testing.families import FamilyContract
from chemscale.testing.languages import LanguageModelContract
from chemscale.testing.potentials import PotentialContract

__all__ = ["ExecutorContract", "FamilyContract", "LanguageModelContract", "PotentialContract"]
