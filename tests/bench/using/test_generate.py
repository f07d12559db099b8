"""Molecules from a model, from nothing or from their beginning."""

import pytest
import torch
from rdkit import Chem

from chemscale.bench.data.encoding import Choices
from chemscale.bench.data.notation import canonical
from chemscale.bench.data.tokens import SPECIAL, Tokenizer
from chemscale.bench.models.base import build
from chemscale.bench.models.chemgpt import ChemGPT
from chemscale.bench.using.generate import generate, read_prompt
from chemscale.bench.using.trained import TrainedModel
from chemscale.table.errors import DataError, UsageError

FURAN = "C1CC(C)CO1"


def test_a_sample_says_what_it_is(trained: TrainedModel):
    samples = generate(trained, 100, max_length=16)
    assert len(samples) == 100 and {one.finished for one in samples} == {True, False}
    for one in samples:
        assert one.keeps is None and one.prompt == "" and one.text.startswith("[")
        assert one.smiles == "" or (one.finished and Chem.CanonSmiles(one.smiles) == one.smiles)


@pytest.mark.parametrize("prompt", [FURAN, "[C][C][C][Branch1][C][C][C][O][Ring1][=Branch1]"])
def test_a_prompt_begins_every_sample_and_keeping_it_is_checked(trained: TrainedModel, prompt):
    samples = generate(trained, 40, prompts=[prompt])
    fragment = Chem.MolFromSmiles(read_prompt(trained, prompt).smiles)
    begun = "".join(read_prompt(trained, prompt).symbols)
    usable = [one for one in samples if one.smiles]
    assert usable and all(one.text.startswith(begun) for one in samples)
    for one in usable:
        assert one.keeps == Chem.MolFromSmiles(one.smiles).HasSubstructMatch(fragment)
    assert sum(one.keeps for one in usable) > len(usable) / 2


def test_smiles_are_taken_in_the_order_in_which_they_are_written(trained: TrainedModel):
    assert read_prompt(trained, "CCO").symbols == ("[C]", "[C]", "[O]")
    assert read_prompt(trained, "OCC").symbols == ("[O]", "[C]", "[C]")


def test_a_model_of_smiles_goes_on_from_the_text_of_a_prompt():
    symbols = (*SPECIAL, *"CcNO1()=")
    config = ChemGPT.Config(width=16, num_layers=1, num_heads=1, vocab_size=len(symbols))
    model = build(ChemGPT, config, 0, torch.float32).eval()
    trained = TrainedModel("by chance", "chemgpt", model, Tokenizer(symbols, Choices("smiles")))
    for prompt, begun in ((FURAN, FURAN), ("OCc1ccccc1", "OCc1ccccc1"), ("[C][C][O]", "CCO")):
        samples = generate(trained, 20, prompts=[prompt], max_length=30)
        assert all(one.text.startswith(begun) for one in samples)
        for one in samples:
            assert one.smiles == (canonical(one.text) if one.finished else "")
    with pytest.raises(DataError, match="by chance does not know Cl"):
        read_prompt(trained, "ClCC")


def test_several_prompts_are_answered_in_turn(trained: TrainedModel):
    samples = generate(trained, 3, prompts=["CC", FURAN], seed=5)
    assert [one.prompt for one in samples] == ["CC"] * 3 + [FURAN] * 3


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("c1cc", "prompt 'c1cc' is no molecule: not a SMILES"),
        ("C(C)(C)(C)(C)C", "is no molecule: .*valence"),
        ("CC.O", "is no molecule: 2 fragments"),
        ("C[Se]C", r"does not know \[Se\]; no molecule it was trained on has that. It knows"),
        ("[C][Foo]", r"does not know \[Foo\]"),
        ("C" * 100_000, "^prompt 'C{200}' is no molecule: 100,000 characters"),
        ("C" * 60, "60 symbols leave no room below max_length = 40"),
    ],
)
def test_a_prompt_that_cannot_be_used_says_why(trained: TrainedModel, prompt, said):
    with pytest.raises(DataError, match=said):
        generate(trained, 1, prompts=[prompt])


def test_settings_outside_their_range_are_told_all_at_once(trained: TrainedModel):
    with pytest.raises(UsageError, match=r"count 0: at least 1; temperature -1.*top_k 0.*top_p 2"):
        generate(trained, 0, temperature=-1, top_k=0, top_p=2)
    with pytest.raises(UsageError, match="max_length 41: from 1 to 40"):
        generate(trained, 1, max_length=41)
