"""The card of a model: Markdown with the front matter that Hugging Face reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chemscale import __version__
from chemscale.bench.using.trained import TrainedModel, TrainedPotential
from chemscale.table.adopted import Gate
from chemscale.table.records import DatasetSpec, Run
from chemscale.table.results import Outcome

PAPER = (
    "N. C. Frey et al., *Neural scaling of deep chemical models*, Nat. Mach. Intell. 5, 1297 (2023)"
)
UNITS = {
    "nats_per_molecule": "nats per molecule",
    "nats_per_token": "nats per token",
    "nats_per_heavy_atom": "nats per heavy atom",
}


def of_run(
    trained: TrainedModel,
    gate: Gate,
    run: Run,
    outcome: Outcome,
    dataset: DatasetSpec,
    notes: Sequence[str],
) -> str:
    """The card of a model that a run of ours trained."""
    recipe = run.trunk.recipe.model_dump(exclude_defaults=True, exclude={"revision"})
    settings = {"learning_rate": run.trunk.recipe.learning_rate,
                "batch_size": run.trunk.recipe.batch_size, **recipe}  # fmt: skip
    rows = {
        "training molecules": f"{run.trunk.num_train:,}, of {_source(dataset)}",
        "fingerprint of the data": f"`{run.trunk.dataset}`",
        "molecules seen, repeats counted": f"{outcome.items_seen:,}",
        "tokens seen": f"{outcome.tokens_seen:,}",
        "training FLOPs": f"{outcome.flops:.2e}",
        "training time": f"{outcome.seconds:,.0f} s on {outcome.machine.get('device', '?')}",
        "electricity": f"{outcome.joules / 1e3:,.1f} kJ" if outcome.joules else "not measured",
        "settings": ", ".join(f"{name} {value}" for name, value in settings.items()),
        "ended": f"{outcome.ending}: {outcome.sentence}",
        "run, seed": f"`{run.id}`, {run.trunk.seed}",
    }
    losses = [
        f"| {split} | {UNITS[name]} | {values[name]:.4g} |"
        for split, values in outcome.metrics.items()
        for name in UNITS
        if name in values
    ]
    test = outcome.metrics.get("test", {})
    body = [
        "## Training",
        "",
        f"One run of a scaling study, after {PAPER}.",
        "",
        *_table(rows),
        *(f"- {note}" for note in notes),
        *([""] if notes else []),
        "## Losses",
        "",
        "On molecules never trained on; those with symbols that no training molecule has are left "
        "out.",
        "",
        "| split | loss | value |",
        "| --- | --- | --- |",
        *losses,
        "",
    ]
    return _card(trained, gate, test, body, ())


def of_potential(
    trained: TrainedPotential, run: Run, outcome: Outcome, dataset: DatasetSpec
) -> str:
    """A paragraph on a potential that a run of ours trained."""
    test = outcome.metrics.get("test", {})
    units = {"force_mae": "meV/Å", "energy_mae": "meV/atom"}
    errors = [f"{name} {test[name]:.4g} {unit}" for name, unit in units.items() if name in test]
    shape = ", ".join(f"{name} {value}" for name, value in trained.config.model_dump().items())
    return (
        f"{trained.family} with {trained.model.num_params_total:,} parameters ({shape}), trained "
        f"by chemscale {__version__} on {run.trunk.num_train:,} structures of {_source(dataset)}; "
        f"run {run.id}, seed {run.trunk.seed}, ended {outcome.ending}. "
        f"On test: {', '.join(errors) or 'not judged'}."
    )


def of_adopted(
    trained: TrainedModel, gate: Gate, source: str, repairs: Sequence[str], limits: Sequence[str]
) -> str:
    """The card of a model that came from elsewhere."""
    changed = [f"- {line}" for line in repairs] or ["- nothing"]
    body = [
        "## Where it comes from",
        "",
        f"{source}. How it was trained is not known here. Changed on the way:",
        "",
        *changed,
        "",
    ]
    return _card(trained, gate, {}, body, limits)


def _card(
    trained: TrainedModel,
    gate: Gate,
    test: Mapping[str, float],
    body: Sequence[str],
    limits: Sequence[str],
) -> str:
    counterpart = trained.model.counterpart
    tags = ["chemistry", "molecules", trained.notation, trained.family, "chemscale"]
    begin = "[C]" if trained.notation == "selfies" else "C"
    config = trained.config.model_dump()
    shape = ", ".join(f"{name} {value}" for name, value in config.items())
    return "\n".join(
        [
            *_front(trained.name, tags, test),
            f"# {trained.name}",
            "",
            f"A language model of molecules: {trained.family} with "
            f"{trained.model.num_params:,} parameters ({trained.model.num_params_total:,} with "
            f"embeddings) over {len(trained.symbols) - 4} {trained.notation.upper()} symbols. "
            f"Its shape: {shape}.",
            "",
            "## Use",
            "",
            "```python",
            "from transformers import pipeline",
            "",
            'write = pipeline("text-generation", model="FOLDER", return_full_text=True)',
            f'write("{begin}", max_new_tokens=64)',
            "```",
            "",
            f"`AutoModelForCausalLM` gives a `{counterpart.architecture if counterpart else '?'}`. "
            "Text begins with `<bos>`, which the tokeniser puts there; generation ends with "
            "`<eos>`. `chemscale generate` and `chemscale embed` take the run itself, or a folder "
            "that `chemscale adopt` made of this one.",
            "",
            *body,
            "## Checked",
            "",
            f"{str(gate)[0].upper()}{str(gate)[1:]}. A check that nothing is broken, not a test: "
            "it may have been trained on these molecules.",
            *(f"**{fault[0].upper()}{fault[1:]}.**" for fault in gate.faults),
            "",
            "## Limits",
            "",
            f"- molecules of up to {trained.max_length - 1} symbols",
            f"- symbols that are not among its {len(trained.symbols) - 4} become `<unk>`",
            *(f"- {limit}" for limit in limits),
            "- a likely molecule need not be stable, safe or easy to make",
            "- no licence is given: it is for whoever publishes the model, and follows its data",
            "",
            f"Written by chemscale {__version__}.",
            "",
        ]
    )


def _front(name: str, tags: Sequence[str], test: Mapping[str, float]) -> list[str]:
    """Front matter; names are quoted, as folders may be called anything."""
    metrics = [
        line
        for key in UNITS
        if key in test
        for line in (
            f"    - name: {UNITS[key]}, test",
            f"      type: {key}",
            f"      value: {test[key]:.6g}",
        )
    ]
    index = [
        "model-index:",
        f'- name: "{name}"',
        "  results:",
        "  - task:",
        "      type: text-generation",
        "    dataset:",
        '      name: "held-out molecules"',
        "      type: molecules",
        "    metrics:",
        *metrics,
    ]
    return [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags:",
        *(f"- {tag}" for tag in tags),
        *(index if metrics else []),
        "---",
        "",
    ]


def _source(spec: DatasetSpec) -> str:
    if spec.name:
        return spec.name
    return ", ".join(path.rsplit("/", 1)[-1] for path in spec.path)


def _table(rows: Mapping[str, Any]) -> list[str]:
    return [
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in rows.items()),
        "",
    ]
