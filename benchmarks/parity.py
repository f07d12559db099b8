"""Is a model here and in `transformers` one function? Logits and greedy strings, both ways.

Out: a trained model of ours is exported and loaded by `transformers`. In: `transformers` writes a
network in the shape of the released ChemGPT-4.7M, with random weights, one of the published
tokenisers and the defects of the released configuration; it is adopted and compared. Molecules are
the first of the example data; strings go on from their first symbols with the likeliest symbol.

    python benchmarks/parity.py MODEL --tokenizer tokenizer.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from chemscale.bench.data.examples import FOLDER
from chemscale.bench.data.molecule_files import read_smiles
from chemscale.bench.data.token_batch import BOS, EOS, PAD, UNK, TokenBatch
from chemscale.bench.data.tokens import SPECIAL
from chemscale.bench.using import from_transformers, to_transformers
from chemscale.bench.using.sample import Sampling, sample
from chemscale.bench.using.trained import TrainedModel, load
from chemscale.table.errors import DataError

PROMPT = 5  # symbols
BATCH = 50


def main() -> None:
    """Compare both ways and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="run, study or adopted model")
    parser.add_argument("--tokenizer", type=Path, help="a published tokenizer.json; else out only")
    parser.add_argument("--count", type=int, default=1000, help="molecules")
    parser.add_argument("--new", type=int, default=24, help="symbols that are added to each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as place:
        ours = load(options.model)
        out = Path(place) / "out"
        to_transformers.write(ours, out, "")
        theirs = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
        report("out", ours, theirs, torch.arange(len(ours.symbols)), options)
        if options.tokenizer:
            released = Path(place) / "ChemGPT-4.7M"
            theirs = release(released, options.tokenizer)
            found = from_transformers.read(released)
            for line in (*found.repairs, *found.limits):
                print(f"  {line}")
            report("in", found.trained, theirs, rows(found.trained, options.tokenizer), options)


def release(folder: Path, tokenizer: Path) -> Any:
    """A network in the shape of ChemGPT-4.7M with random weights, as it was released."""
    vocabulary = json.loads(tokenizer.read_text())["model"]["vocab"]
    config = transformers.GPTNeoConfig(
        vocab_size=len(vocabulary), hidden_size=128, num_layers=24, num_heads=16,
        attention_types=[[["global", "local"], 12]], max_position_embeddings=2048,
        initializer_range=0.06,  # three times the usual: differences show
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.GPTNeoForCausalLM(config).eval()
    model.save_pretrained(folder)
    shutil.copy(tokenizer, folder / "tokenizer.json")
    return model


def rows(ours: TrainedModel, tokenizer: Path) -> torch.Tensor:
    """Their id of each symbol of ours, found by the name it has there."""
    from selfies.compatibility import modernize_symbol

    vocabulary = json.loads(tokenizer.read_text())["model"]["vocab"]
    names: dict[str, int] = {}
    for word, index in sorted(vocabulary.items(), key=lambda item: item[1]):
        if word.startswith("["):  # pieces of words come first, and some are renamed too
            names.setdefault(modernize_symbol(word), index)
    theirs = dict(zip(SPECIAL, ("[PAD]", "[CLS]", "[SEP]", "[UNK]"), strict=True))
    return torch.tensor([names[theirs.get(symbol, symbol)] for symbol in ours.symbols])


@torch.no_grad()
def report(
    way: str, ours: TrainedModel, theirs: Any, rows: torch.Tensor, options: argparse.Namespace
) -> None:
    """Logits of all molecules and what both write after their first symbols."""
    apart, size, same, count = 0.0, 0.0, 0, 0
    molecules = list(islice(known(ours), options.count))
    for start in range(0, len(molecules), BATCH):
        batch = molecules[start : start + BATCH]
        for ids in batch:
            length = np.array([len(ids) - 2])
            found = ours.model.logits(TokenBatch.of(ids[1:-1], length, length))
            given = rows[torch.from_numpy(ids[:-1])]
            expected = theirs(input_ids=given[None]).logits[0][:, rows]
            apart = max(apart, float((found - expected).abs().max()))
            size = max(size, float(expected.abs().max()))
        prompts = np.stack([ids[1 : PROMPT + 1] for ids in batch])
        written = sample(
            ours.model, prompts.tolist(), Sampling(temperature=0), seed=0, batch_size=BATCH,
            max_length=PROMPT + options.new,
        )  # fmt: skip
        for own, other in zip(written, greedy(theirs, prompts, rows, options.new), strict=True):
            same += own.tolist() == other
            count += 1
    print(
        f"{way}: {count} molecules; logits up to {size:.1f} apart by {apart:.1e}; "
        f"{same} of {count} greedy strings equal"
    )


def greedy(theirs: Any, prompts: np.ndarray, rows: torch.Tensor, new: int) -> list[list[int]]:
    """Prompts and what transformers adds to them, in our ids, up to the stop token."""
    begun = rows[torch.from_numpy(np.insert(prompts, 0, BOS, axis=1))]
    back = {int(there): here for here, there in enumerate(rows)}
    never = [n for n in range(theirs.config.vocab_size) if back.get(n, PAD) in (PAD, BOS, UNK)]
    made = theirs.generate(
        begun, attention_mask=torch.ones_like(begun), do_sample=False, max_new_tokens=new,
        suppress_tokens=never, eos_token_id=int(rows[EOS]), pad_token_id=int(rows[PAD]),
    )  # fmt: skip
    texts = [[back[int(n)] for n in row[1:]] for row in made]
    return [text[: text.index(EOS) + 1] if EOS in text else text for text in texts]


def known(ours: TrainedModel) -> Any:
    """Molecules all of whose symbols the model knows, as ids."""
    for smiles in read_smiles(FOLDER / "molecules.csv.gz"):
        try:
            ids = np.array(ours.tokenizer.encode(smiles))
        except DataError:
            continue
        if UNK not in ids and PROMPT + 2 < len(ids) <= ours.max_length:
            yield ids


if __name__ == "__main__":
    main()
