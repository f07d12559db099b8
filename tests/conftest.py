"""What all tests share."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

# As in a worker: one thread, so that what is trained here and there is bit for bit the same.
os.environ["OMP_NUM_THREADS"] = "1"


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


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training happens in this process, one run after the other, whatever executor is named."""
    from chemscale import verbs
    from chemscale.bench.training import loop
    from chemscale.bench.training.resources import ORDINARY
    from chemscale.bench.training.workbench import Workbench
    from chemscale.table.store import StudyFolder

    class Here:
        workers = 1
        resources = ORDINARY

        def __init__(self, **_: Any) -> None: ...

        def submit(
            self, folder: Path, run_ids: Sequence[str], *, deadline: float | None, watch: Any
        ) -> bool:
            study = StudyFolder(folder)
            bench = Workbench(study.study(), study.path)

            def stop() -> bool:
                return deadline is not None and time.time() > deadline

            for run_id in run_ids:
                if stop():
                    return False
                loop.train_run(study, run_id, bench=bench, tell=watch, stop=stop)
            return True

    monkeypatch.setattr(verbs.executors, "load", lambda name: Here)


@pytest.fixture
def chemscale(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """Run the command line in this process: exit code, standard output, standard error."""

    from chemscale import cli

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["chemscale", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run
