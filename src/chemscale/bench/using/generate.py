"""New molecules from a trained model, from nothing or from the beginning of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from chemscale.bench.data.token_batch import EOS
from chemscale.bench.using.reading import read_fragment
from chemscale.bench.using.sample import Sampling, sample
from chemscale.bench.using.trained import TrainedModel
from chemscale.table.errors import DataError, UsageError


@dataclass(frozen=True)
class Prompt:
    """How molecules begin."""

    given: str  # SMILES or SELFIES, as it was written
    symbols: tuple[str, ...]
    smiles: str  # of the fragment alone; empty if there is none


@dataclass(frozen=True)
class Sample:
    """One molecule that a model wrote."""

    prompt: str
    text: str  # in the model's notation, prompt included
    smiles: str  # canonical; empty where it did not end, or RDKit does not accept it
    finished: bool  # ended by the stop token, not by the longest length
    keeps: bool | None  # contains the prompt as a substructure; None without prompt or molecule


def generate(
    trained: TrainedModel,
    count: int,
    *,
    prompts: Sequence[str] = (),
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    batch_size: int = 256,
    max_length: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Sample]:
    """Sample molecules.

    The same seed gives the same molecules; another batch size or machine may change one where
    rounding does.

    Args:
        trained: the model.
        count: how many, for each prompt.
        prompts: what molecules begin with, as SMILES or SELFIES. SMILES are taken as written: the
            atom written last is the one that goes on first.
        temperature: below 1 closer to the likeliest molecules, 0 the likeliest one only.
        top_k: only the k likeliest symbols each time.
        top_p: only the likeliest symbols that together reach this chance.
        seed: of the random numbers.
        batch_size: molecules at once.
        max_length: the most tokens, as far as the model goes.
        progress: told how many more are done.

    Returns:
        `count` samples for each prompt in turn, unusable ones among them.

    Raises:
        UsageError: a setting outside its range.
        DataError: a prompt that is no molecule, or has symbols that the model does not know.
    """
    longest = trained.max_length if max_length is None else max_length
    _check(count, temperature, top_k, top_p, seed, batch_size)
    if not 1 <= longest <= trained.max_length:
        raise UsageError(
            f"max_length {longest}: from 1 to {trained.max_length}, which it was made for"
        )
    begun = [read_prompt(trained, text) for text in prompts] or [Prompt("", (), "")]
    for prompt in begun:
        if len(prompt.symbols) >= longest:
            raise DataError(
                f"prompt {prompt.given[:200]!r}: {len(prompt.symbols)} symbols leave no room below "
                f"max_length = {longest}"
            )
    rows = sample(
        trained.model,
        [trained.ids(prompt.symbols) for prompt in begun for _ in range(count)],
        Sampling(temperature, top_k, top_p),
        seed=seed,
        batch_size=batch_size,
        max_length=longest,
        progress=progress,
    )
    keeps = {prompt: _contains(prompt.smiles) for prompt in begun}
    smiles_of: dict[bytes, str] = {}
    found = []
    for number, row in enumerate(rows):
        prompt = begun[number // count]
        finished = bool(row[-1] == EOS)
        key = row.tobytes()
        if key not in smiles_of:
            smiles_of[key] = trained.tokenizer.smiles(row.tolist()) if finished else ""
        smiles = smiles_of[key]
        text = trained.tokenizer.text(row.tolist())
        found.append(Sample(prompt.given, text, smiles, finished, keeps[prompt](smiles)))
    return found


def read_prompt(trained: TrainedModel, text: str) -> Prompt:
    """Read the beginning of a molecule, as SMILES or as SELFIES symbols.

    Raises:
        DataError: neither; or a symbol that the model does not know.
    """
    text = text.strip()
    symbols, smiles = read_fragment(text, trained.notation)
    if unknown := trained.unknown(symbols):
        raise DataError(
            f"prompt {text[:200]!r}: {trained.name} does not know {', '.join(unknown)}; no "
            f"molecule it was trained on has that. It knows {' '.join(trained.symbols[4:])}"
        )
    return Prompt(text, tuple(symbols), smiles)


def _contains(fragment: str) -> Callable[[str], bool | None]:
    """Whether a SMILES holds a fragment."""
    from rdkit import Chem

    wanted: Any = Chem.MolFromSmiles(fragment) if fragment else None

    def answer(smiles: str) -> bool | None:
        if wanted is None or not smiles:
            return None
        return bool(Chem.MolFromSmiles(smiles).HasSubstructMatch(wanted))

    return answer


def _check(
    count: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    batch_size: int,
) -> None:
    wrong = [
        (count < 1, f"count {count}: at least 1"),
        (not 0 <= temperature < float("inf"), f"temperature {temperature:g}: 0 or above"),
        (top_k is not None and top_k < 1, f"top_k {top_k}: at least 1"),
        (top_p is not None and not 0 < top_p <= 1, f"top_p {top_p}: above 0, at most 1"),
        (not 0 <= seed < 2**64, f"seed {seed}: from 0 to 2⁶⁴ - 1"),
        (batch_size < 1, f"batch_size {batch_size}: at least 1"),
    ]
    if said := [text for is_wrong, text in wrong if is_wrong]:
        raise UsageError("; ".join(said))
