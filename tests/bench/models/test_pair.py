"""The family that docs/add-a-family.md shows sits the exam as it stands there."""

import functools
import re
import sys
import types
from pathlib import Path
from typing import Any

from chemscale.testing import PotentialContract

PAGE = Path(__file__).parents[3] / "docs" / "add-a-family.md"


@functools.cache
def shown() -> Any:
    """The class in the first block of Python on the page."""
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert code is not None
    module = types.ModuleType("pair_from_the_docs")
    sys.modules[module.__name__] = module
    exec(compile(code[1], str(PAGE), "exec"), module.__dict__)
    return module.__dict__["Pair"]


class TestPair(PotentialContract):
    family = "pair"

    @classmethod
    def kind(cls) -> Any:
        return shown()
