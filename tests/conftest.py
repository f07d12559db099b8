"""What all tests share."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Prepared data goes to a folder of this session, never to the user's cache."""
    before = os.environ.get("CHEMSCALE_CACHE")
    os.environ["CHEMSCALE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["CHEMSCALE_CACHE"]
    else:
        os.environ["CHEMSCALE_CACHE"] = before
