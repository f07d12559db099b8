"""Memory of a run is told before it starts, and a run that does not fit is refused."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from chemscale.bench.models.base import load_family
from chemscale.bench.training import memory
from chemscale.bench.training.workbench import Workbench
from chemscale.table.errors import ChemscaleError
from chemscale.table.records import Study
from chemscale.testing.toys import toy_smiles, write_structures

CPU = torch.device("cpu")
MB = 1_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("toys")
    write_structures(path / "toy.xyz")
    (path / "toy.smi").write_text("\n".join(toy_smiles()) + "\n")
    return path


def bench(folder: Path, family: str = "schnet", batch_size: int = 8, **other: Any) -> Workbench:
    data: dict[str, Any] = {"format": "extxyz", "path": "toy.xyz", "validation": 0.2}
    recipe = {"name": "energy-and-forces", "batch_size": batch_size}
    if family == "chemgpt":
        data = {"format": "smi", "path": "toy.smi", "group": "content", "max_length": 32}
        recipe["name"] = "molecules"
    study = {
        "name": "memory",
        "families": {family: ["w16", "w32"]},
        "dataset": data,
        "num_train": [30],
        "recipe": recipe,
        "budget": {"items": 2000},
        **other,
    }
    return Workbench(Study.read(study, "here"), folder)


def test_what_is_alive_at_once_is_counted():
    events = [(1, 10, True), (2, 5, True), (-1, 10, False), (3, 7, True), (-2, 5, False)]
    assert memory.live(events) == 15


def test_the_trace_of_a_product_holds_what_the_backward_pass_needs():
    x = torch.empty(100, 10, device="meta")
    w = torch.empty(10, 20, device="meta", requires_grad=True)

    def work() -> None:
        hidden = x @ w  # 8,000 bytes
        hidden.tanh().sum().backward()

    found = memory.live(memory.trace(work, CPU))
    # The tanh, kept, and its gradient with a copy of it under way; what is small beside.
    assert 16_000 < found < 26_000


def test_nothing_is_allocated_and_no_kernel_runs():
    """A size of over 10⁹ parameters is traced on any machine."""
    kind: Any = load_family("schnet")
    with memory.META:
        model = kind(kind.ladder["w12288"])
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("family", ["chemgpt", "schnet", "painn"])
def test_more_width_and_more_items_take_more(folder: Path, family: str):
    made = bench(folder, family)
    peaks = [made.peaks.predict(family, size, 8) for size in ("w16", "w32", "w128")]
    assert None not in peaks
    assert peaks == sorted(peaks)
    assert made.peaks.predict(family, "w16", 64) > 2 * made.peaks.predict(family, "w16", 8)
    # At least the weights, their gradients and two moments.
    assert peaks[-1] > made.size(family, "w128").bytes_training


def test_a_tensor_that_is_made_elsewhere_hinders_no_prediction(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """Once transformers has loaded a model, the meta device may no longer be that of linspace."""
    expected = bench(folder).peaks.predict("schnet", "w16", 8)
    assert expected
    linspace = torch.linspace
    monkeypatch.setattr(torch, "linspace", lambda *args: linspace(*args, device="cpu"))
    assert bench(folder).peaks.predict("schnet", "w16", 8) == expected


def test_forces_take_more_than_energies(folder: Path):
    with_forces = bench(folder, "painn").peaks.predict("painn", "w16", 128)
    alone = bench(folder, "painn", recipe="energy").peaks.predict("painn", "w16", 128)
    assert with_forces > 1.3 * alone


def test_a_size_of_the_study_tells_its_memory_for_each_batch_size(folder: Path):
    search = {"learning_rate": [1e-3], "batch_size": [4, 16]}
    made = bench(folder, "schnet", search=search)
    told = {size.size: size.bytes_peak for size in made.ladder()}
    assert set(told["w16"]) == set(told["w32"]) == {"4", "16"}
    assert told["w32"]["4"] < told["w32"]["16"]
    assert told["w48"] == {}


def test_a_family_that_cannot_be_traced_is_not_predicted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def odd(*_: object) -> None:
        raise NotImplementedError("no kernel for the meta device")

    monkeypatch.setattr(memory, "train", odd)
    made = bench(folder, "schnet")
    assert made.peaks.predict("schnet", "w16", 8) is None
    assert made.dataset.notes[-1] == (
        "memory of schnet is not predicted: NotImplementedError: no kernel for the meta device"
    )
    made.peaks.refuse_what_does_not_fit([("schnet", "w16", 8)], workers=1)


def test_a_run_that_does_not_fit_is_refused_with_what_would(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    made = bench(folder, "painn")
    peak = made.peaks.predict("painn", "w16", 128)
    edges = made.peaks._load("painn", "w16", 128)
    half = made.peaks.predict("painn", "w16", 128, max_load=edges // 2)
    process = 400 * MB
    monkeypatch.setattr(memory, "process_bytes", lambda: process)
    monkeypatch.setattr(memory, "machine_bytes", lambda _: process + (peak + half) // 2)
    with pytest.raises(ChemscaleError) as error:
        made.peaks.refuse_what_does_not_fit([("painn", "w16", 128), ("painn", "w16", 8)], workers=1)
    text = str(error.value)
    assert "painn w16 with batch_size 128 does not fit" in text
    assert "0.4 GB for the process" in text
    assert "this machine has" in text
    assert f"It would fit with max_edges = {edges // 2} in [recipe]" in text


def test_where_nothing_helps_it_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch):
    made = bench(folder, "schnet")
    monkeypatch.setattr(memory, "machine_bytes", lambda _: 30_000 * MB)
    with pytest.raises(ChemscaleError, match="Nothing makes it fit"):
        made.peaks.refuse_what_does_not_fit([("schnet", "w12288", 8)], workers=1)


def test_runs_that_fit_alone_but_not_together_name_how_many_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    made = bench(folder, "schnet")
    monkeypatch.setattr(memory, "process_bytes", lambda: 400 * MB)
    monkeypatch.setattr(memory, "machine_bytes", lambda _: 1000 * MB)
    kinds = [("schnet", "w16", 8)] * 6
    made.peaks.refuse_what_does_not_fit(kinds, workers=2)
    made.peaks.refuse_what_does_not_fit(kinds[:1], workers=8)
    with pytest.raises(ChemscaleError, match="--workers 2 makes it fit"):
        made.peaks.refuse_what_does_not_fit(kinds, workers=4)


def test_a_control_group_limits_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    limit = tmp_path / "memory.max"
    limit.write_text("123456789\n")
    monkeypatch.setattr(memory, "_group_limits", lambda: [limit, tmp_path / "not there"])
    assert memory.machine_bytes(CPU) == 123_456_789
    limit.write_text("max\n")
    assert memory.machine_bytes(CPU) > 123_456_789


def test_the_process_itself_takes_some_hundred_megabytes():
    assert 100 * MB < memory.process_bytes() < 4000 * MB


# --- against the machine -------------------------------------------------------------------------


def script() -> Any:
    path = Path(__file__).parents[3] / "benchmarks/memory.py"
    spec = importlib.util.spec_from_file_location("memory_benchmark", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("case", ["chemgpt:w192:64", "schnet:w256:64", "painn:w192:64"])
def test_memory_is_predicted_within_20_percent(case: str):
    benchmark = script()
    family, size, batch_size = case.split(":")
    predicted = benchmark.predicted(family, size, int(batch_size), "")
    measured = benchmark.measured(family, size, int(batch_size), "")
    assert measured > 150 * MB  # far above what the reading itself is uncertain by
    assert predicted == pytest.approx(measured, rel=0.2)


def test_a_layer_computed_again_keeps_less_alive(folder: Path):
    made = bench(folder, "chemgpt", batch_size=64)
    kind = load_family("chemgpt")
    config = kind.fitted_config("w64", made.dataset)
    items = made.dataset.indices("train")[:40]
    batch = made.dataset.collate(config)(items).to(memory.META, torch.float32)
    alive = []
    for again in (False, True):
        with memory.META:
            model = kind(config)
        model.recompute = again
        step = lambda model=model: memory.train(model, [batch], made.study.recipe.resolve())  # noqa: E731
        weights = sum(4 * p.numel() for p in model.parameters())
        alive.append(memory.live(memory.trace(step, CPU)) - weights)
    assert alive[1] < 0.5 * alive[0]
