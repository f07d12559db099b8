"""Exams for plug-ins, ours and anybody's; needs pytest and the `train` extra.

class TestMine(PotentialContract):
    family = "mine"
"""

import pytest

pytest.register_assert_rewrite("chemscale.testing.families", "chemscale.testing.toys")

from chemscale.testing.families import (  # noqa: E402
    FamilyContract,
    LanguageModelContract,
    PotentialContract,
)

__all__ = ["FamilyContract", "LanguageModelContract", "PotentialContract"]
