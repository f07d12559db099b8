"""Models go to transformers and come from it as the same function; what is wrong is named."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch as safetensors
import torch
import transformers

from chemscale import exchange as verbs
from chemscale.bench.data.examples import FOLDER
from chemscale.bench.data.molecule_files import read_smiles
from chemscale.bench.data.token_batch import EOS, TokenBatch
from chemscale.bench.data.tokens import SPECIAL, Tokenizer
from chemscale.bench.models.base import build, load_family
from chemscale.bench.training.step import optimiser, train_step
from chemscale.bench.using import from_transformers, gate, to_transformers
from chemscale.bench.using.sample import Sampling, sample
from chemscale.bench.using.trained import TrainedModel, TrainedPotential
from chemscale.table.adopted import read
from chemscale.table.errors import DataError, MissingPackage, UsageError
from chemscale.table.records import RECIPES

SHAPES = {
    "chemgpt": {"width": 48, "num_layers": 2, "num_heads": 3, "window": 16},
    "qwen3": {"width": 32, "num_layers": 2, "num_heads": 2, "hidden": 80},
}
WAYS = {  # symbols of SELFIES 1 and what they are called in SELFIES 2
    "[Branch1]": "[Branch1_1]",
    "[=Branch1]": "[Branch1_2]",
    "[#Branch1]": "[Branch1_3]",
    "[Branch2]": "[Branch2_1]",
    "[=Branch2]": "[Branch2_2]",
    "[#Branch2]": "[Branch2_3]",
    "[NH1]": "[NHexpl]",
    "[=Ring1]": "[Expl=Ring1]",
}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """SMILES that come with the package, without stereo."""
    known = read_smiles(FOLDER / "molecules.csv.gz")
    return [smiles for smiles in known if not set("@/\\") & set(smiles)][:400]


@pytest.fixture(scope="module")
def tokenizer(texts: list[str]) -> Tokenizer:
    from chemscale.bench.data.encoding import encode

    return Tokenizer((*SPECIAL, *sorted({s for text in texts for s in encode(text)})))


@pytest.fixture(scope="module")
def make(tokenizer: Tokenizer, texts: list[str]) -> Callable[[str, int], TrainedModel]:
    """A model after some steps of training on these molecules."""
    molecules = [np.array(tokenizer.encode(text)[1:-1]) for text in texts]

    def made(family: str, num_steps: int) -> TrainedModel:
        kind = load_family(family)
        config = kind.Config(**SHAPES[family], vocab_size=len(tokenizer.symbols), max_length=200)
        model: Any = build(kind, config, 0, torch.float32)
        recipe = RECIPES["molecules"].model_copy(update={"learning_rate": 1e-2})
        step = optimiser(model, recipe)
        for k in range(num_steps):
            chosen = [molecules[(16 * k + n) % len(molecules)] for n in range(16)]
            sizes = np.array([len(one) for one in chosen])
            batch = TokenBatch.of(np.concatenate(chosen), sizes, sizes)
            train_step(model, step, [batch], recipe, 1e-2)
        return TrainedModel("a-model", family, model.eval(), tokenizer)

    return made


@pytest.fixture(scope="module")
def trained(make: Callable[[str, int], TrainedModel]) -> TrainedModel:
    return make("chemgpt", 150)


@pytest.fixture
def released(trained: TrainedModel, tmp_path: Path) -> Path:
    """As the released ChemGPT: symbols of SELFIES 1 among pieces of words, no stop token."""
    folder = tmp_path / "ChemGPT"
    folder.mkdir()
    pieces = ["#", "C", "[Br", "##C]", "##ranch"]
    names = [WAYS.get(symbol, symbol) for symbol in trained.symbols[4:]]
    words = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", *pieces, *names]
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    counterpart = trained.model.counterpart
    assert counterpart is not None
    state = dict(trained.model.state_dict())
    embedding = torch.full((len(words), trained.config.width), -1.0)  # type: ignore[attr-defined]
    for row, word in enumerate([*special, *names]):
        embedding[words.index(word)] = state["symbols.weight"][row]
    state["symbols.weight"] = embedding
    weights = counterpart.theirs(state, trained.model.num_layers)
    weights["transformer.h.0.attn.attention.masked_bias"] = torch.tensor(-1e9)
    weights["lm_head.weight"] = embedding.clone()
    safetensors.save_file(weights, folder / "model.safetensors")
    told = {
        **counterpart.to_config(trained.config),
        "architectures": ["GPTNeoForCausalLM"],
        "model_type": "gpt_neo",
        "attention_types": [[["global", "local"], 1]],
        "activation_function": "gelu_new",
        "intermediate_size": None,
        "vocab_size": len(words),
        "bos_token_id": 50256,
        "eos_token_id": 50256,
    }
    del told["pad_token_id"]
    write(folder / "config.json", told)
    model = {"type": "WordPiece", "vocab": {w: i for i, w in enumerate(words)},
             "unk_token": "[UNK]", "continuing_subword_prefix": "##",
             "max_input_chars_per_word": 100}  # fmt: skip
    split = {"type": "Split", "pattern": {"Regex": r"\[(.*?)\]"}, "behavior": "Isolated",
             "invert": False}  # fmt: skip
    write(folder / "tokenizer.json", {"version": "1.0", "added_tokens": [], "normalizer": None,
                                      "pre_tokenizer": split, "post_processor": None,
                                      "decoder": None, "model": model})  # fmt: skip
    write(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    return folder


def write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data))


def change(path: Path, **values: Any) -> None:
    write(path, {**json.loads(path.read_text()), **values})


def tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the weights of a folder."""
    weights = safetensors.load_file(folder / "model.safetensors")
    edit(weights)
    safetensors.save_file(weights, folder / "model.safetensors")


# --- out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", SHAPES)
def test_transformers_loads_what_is_written_and_says_the_same(make, texts, tmp_path, family):
    ours = make(family, 20)
    to_transformers.write(ours, tmp_path / "out", "card")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    for text in texts[:10]:
        ids = ours.tokenizer.encode(text)
        assert tokenizer(ours.tokenizer.text(ids[1:])).input_ids == ids[:-1]
        molecule = np.array(ids[1:-1])
        size = np.array([len(molecule)])
        with torch.no_grad():
            found = ours.model.logits(TokenBatch.of(molecule, size, size))
            expected = theirs(input_ids=torch.tensor([ids[:-1]])).logits[0]
        assert torch.allclose(found, expected, atol=1e-4, rtol=0)


def test_both_write_the_same_molecule_where_the_likeliest_symbol_is_taken(trained, tmp_path):
    to_transformers.write(trained, tmp_path / "out", "card")
    write_text = transformers.pipeline("text-generation", model=str(tmp_path / "out"))
    for prompt in ("", "[C][C]", "[O][=C]"):
        (answer,) = write_text(prompt, do_sample=False, max_new_tokens=40)
        tokens = trained.ids([f"[{part}]" for part in prompt[1:-1].split("][")] if prompt else [])
        (row,) = sample(
            trained.model, [tokens], Sampling(temperature=0), seed=0, batch_size=1,
            max_length=len(tokens) + 41,
        )  # fmt: skip
        assert answer["generated_text"] == trained.tokenizer.text(row[: len(tokens) + 40].tolist())


def test_an_unknown_symbol_becomes_one_unknown_token(trained, tmp_path):
    to_transformers.write(trained, tmp_path / "out", "card")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("[C][Xe][C]").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["<bos>", "[C]", "<unk>", "[C]"]
    assert (tokenizer.pad_token, tokenizer.eos_token_id) == ("<pad>", EOS)


def test_nothing_is_written_over(trained, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="is there already"):
        to_transformers.write(trained, tmp_path / "out", "card")


# --- in ------------------------------------------------------------------------------------------


def test_what_was_written_comes_back_as_it_was(trained, tmp_path):
    to_transformers.write(trained, tmp_path / "out", "card")
    found = from_transformers.read(tmp_path / "out")
    assert not found.repairs
    assert found.trained.symbols == trained.symbols
    assert found.trained.config == trained.config
    for name, value in found.trained.model.state_dict().items():
        assert torch.equal(value, trained.model.state_dict()[name])


def test_a_released_chemgpt_is_put_right_and_every_repair_is_named(released, trained):
    found = from_transformers.read(released)
    said = " | ".join(found.repairs)
    vocab = len(json.loads((released / "tokenizer.json").read_text())["model"]["vocab"])
    assert f"eos_token_id is 50256, outside the vocabulary of {vocab}: it is 3, [SEP]" in said
    assert f"bos_token_id is 50256, outside the vocabulary of {vocab}: it is 2, [CLS]" in said
    assert "pad_token_id is not said: it is 1, [PAD]" in said
    assert "6 tokens are no symbols of SELFIES and were dropped: [MASK] # C [Br …" in said
    assert "symbols of SELFIES 1 go by their names in SELFIES 2: " in said
    assert found.limits[0].startswith("no symbols for stereo centres")
    assert set(found.trained.symbols) == set(trained.symbols)


def test_a_released_chemgpt_has_the_logits_that_transformers_gives_it(released, texts):
    ours = from_transformers.read(released).trained
    theirs = transformers.AutoModelForCausalLM.from_pretrained(released).eval()
    words = json.loads((released / "tokenizer.json").read_text())["model"]["vocab"]
    back = dict(zip(SPECIAL, ("[PAD]", "[CLS]", "[SEP]", "[UNK]"), strict=True))
    rows = torch.tensor([words[back.get(s, WAYS.get(s, s))] for s in ours.symbols])
    for text in texts[:10]:
        ids = torch.tensor(ours.tokenizer.encode(text))
        molecule, size = ids[1:-1].numpy(), np.array([len(ids) - 2])
        with torch.no_grad():
            found = ours.model.logits(TokenBatch.of(molecule, size, size))
            expected = theirs(input_ids=rows[ids[:-1]][None]).logits[0][:, rows]
        assert torch.allclose(found, expected, atol=1e-4, rtol=0)


def test_rows_without_a_symbol_are_dropped(released):
    def grow(weights: dict[str, torch.Tensor]) -> None:
        for name in ("transformer.wte.weight", "lm_head.weight"):
            weights[name] = torch.cat([weights[name], torch.zeros(3, weights[name].shape[1])])

    vocab = json.loads((released / "config.json").read_text())["vocab_size"]
    change(released / "config.json", vocab_size=vocab + 3)
    tensors(released, grow)
    assert (
        "3 rows of the embedding have no symbol and were dropped"
        in from_transformers.read(released).repairs
    )


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (
            lambda folder: change(folder / "config.json", vocab_size=50257),
            r"config.json asks for symbols.weight of \(50257, 48\), .* do not belong together",
        ),
        (
            lambda folder: change(
                folder / "tokenizer.json",
                added_tokens=[{"id": 700, "content": "[Xe]"}],
            ),
            "numbers .* symbols up to 700, but the weights have .* rows",
        ),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "the weights are a pickle.*\n  python -c .*weights_only=True",
        ),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json here"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"half of it"),
            "model.safetensors cannot be read",
        ),
        (
            lambda folder: tensors(folder, lambda w: w["transformer.wpe.weight"].fill_(torch.nan)),
            "places.weight has values that are no numbers: the weights are broken",
        ),
        (
            lambda folder: change(folder / "config.json", model_type="bert"),
            "model_type 'bert' is no family of ours; known: gpt_neo, qwen3",
        ),
    ],
    ids=["vocabulary", "tokenizer", "pickle", "no tokenizer", "torn", "nan", "bert"],
)
def test_what_cannot_be_put_right_is_refused_by_name(released, harm, said):
    harm(released)
    with pytest.raises(DataError, match=said):
        from_transformers.read(released)


# --- the gate ------------------------------------------------------------------------------------


def test_a_trained_model_passes(trained):
    seen = gate.pass_gate(trained)
    assert not seen.faults
    assert seen.loss < 0.9 * seen.unigram < seen.uniform
    assert seen.valid > 0.5


@pytest.mark.slow
def test_weights_that_were_mixed_up_are_caught_and_taken_only_anyway(released, tmp_path):
    def mix(weights: dict[str, torch.Tensor]) -> None:
        generator = torch.Generator().manual_seed(0)
        for name in ("transformer.wte.weight", "lm_head.weight"):
            order = torch.randperm(len(weights[name]), generator=generator.manual_seed(0))
            weights[name] = weights[name][order].contiguous()

    tensors(released, mix)
    with pytest.raises(DataError, match="looks like a broken model: its loss on bundled molecules"):
        verbs.adopt(released, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
    told = verbs.adopt(released, tmp_path / "mine", anyway=True)
    assert told.gate.faults
    assert "is not far below that of guessing" in (tmp_path / "mine/README.md").read_text()


@pytest.mark.slow
def test_an_adopted_model_is_used_and_exported_like_any_other(released, tmp_path):
    from chemscale.bench.using.trained import load

    told = verbs.adopt(released, tmp_path / "mine")
    assert read(tmp_path / "mine") == told
    model, found = load(tmp_path / "mine"), from_transformers.read(released).trained
    assert (model.symbols, model.family) == (found.symbols, "chemgpt")
    verbs.export(tmp_path / "mine", tmp_path / "out")
    again = from_transformers.read(tmp_path / "out")
    assert not again.repairs
    for name, value in again.trained.model.state_dict().items():
        assert torch.equal(value, found.model.state_dict()[name])
    card = (tmp_path / "out/README.md").read_text()
    assert "eos_token_id is 50256" in card


# --- a run of ours -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_is_exported_with_a_card_that_says_how_it_was_made(tmp_path, here):
    from chemscale import train
    from chemscale.table.store import StudyFolder
    from chemscale.testing.toys import toy_smiles

    (tmp_path / "toy.smi").write_text("\n".join(toy_smiles()) + "\n")
    (tmp_path / "study.toml").write_text(
        """name = "toy"
families = { chemgpt = ["w16"] }
dataset = { format = "smi", path = "toy.smi" }
num_train = [200]
recipe = { name = "molecules", warmup = 200 }
budget = { items = 1024 }
"""
    )
    train(tmp_path)
    verbs.export(tmp_path, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    (run,) = StudyFolder(tmp_path).trained()
    _, front, body = card.split("---\n", 2)
    assert "pipeline_tag: text-generation" in front
    told = run.outcome.metrics["test"]["nats_per_molecule"]
    assert f"value: {told:.6g}" in front
    assert f"`{run.run.id}`" in body
    assert "200, of toy.smi" in body


def test_what_cannot_be_exported_is_refused_before_anything_is_done(
    toy_potentials, toy_study, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "metatensor", None)
    new = tmp_path / "potential.pt"
    for model, target, asked, said in (
        (toy_potentials, new, {"to": "hf"}, "learns from structures, and goes to metatomic"),
        (toy_study, new, {"to": "metatomic"}, "learns from molecules, and goes to hf"),
        (toy_study, new, {"dtype": "float64"}, "dtype is for potentials"),
        (toy_potentials, tmp_path / "folder", {}, "a name that ends in .pt"),
        (toy_potentials, new, {}, r"needs metatomic-torch: pip install 'chemscale\[export\]'"),
    ):
        with pytest.raises((UsageError, MissingPackage), match=said):
            verbs.export(model, target, **asked)
    spooky = load_family("spookynet")
    potential = TrainedPotential("a-run", "spookynet", spooky(spooky.ladder["w8"]))
    with pytest.raises(UsageError, match="sums over all pairs .* and it takes charge"):
        verbs.refuse(potential)
    assert not list(tmp_path.iterdir())
