"""FLOPs three times: by closed form, by an independent count, and by hand with all sums shown."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import molecule

from chemscale.bench.data.encoding import encode
from chemscale.bench.data.graph_batch import GraphBatch
from chemscale.bench.data.token_batch import TokenBatch
from chemscale.bench.models.base import Family, build, load_family
from chemscale.table.records import RECIPES
from chemscale.testing.counting import Products, count_step
from chemscale.testing.toys import Structure, graph_of

CPU = torch.device("cpu")


def propane() -> GraphBatch:
    """One molecule, labelled with zeros: what is counted does not depend on the labels."""
    atoms = molecule("C3H8")
    structure = Structure(np.asarray(atoms.numbers, dtype=np.int64), atoms.positions)
    graph = graph_of([structure], 4.0).to(CPU, torch.float32)
    return dataclasses.replace(graph, energy=torch.zeros(1).double(), forces=torch.zeros(11, 3))


def ethanol() -> TokenBatch:
    """CCO is [C][C][O]."""
    symbols = encode("CCO")
    assert tuple(symbols) == ("[C]", "[C]", "[O]")
    ids = {"[C]": 4, "[O]": 5}
    return TokenBatch.of(np.array([ids[s] for s in symbols]), np.array([3]), np.array([3]))


def made(family: str, **config: int) -> Any:
    kind: Any = load_family(family)
    model = build(kind, kind.Config(**config), 0, torch.float32)
    if hasattr(model, "references"):
        model.references.zero_()
    return model


def three_ways(model: Family, batch: Any, recipe: str, by_hand: int) -> None:
    """All agree, exactly; the design asks for 1 %."""
    assert count_step(model, batch, RECIPES[recipe]).flops == by_hand
    assert model.flops(model.seen(batch), RECIPES[recipe]) == by_hand


# --- by hand -------------------------------------------------------------------------------------
#
# Propane has 3 + 8 = 11 atoms. Of its 11 · 10 / 2 = 55 pairs only the two hydrogens at the far
# ends are more than 4 Å apart (4.33 Å): 54 pairs, 108 edges. The networks have one layer of
# 4 features and 3 radial functions. Multiply-adds of a product are counted once for forward and
# once for each gradient that is needed of it; each counts two FLOPs.


def test_propane_has_108_edges():
    graph = propane()
    assert (graph.num_atoms, len(graph.senders)) == (11, 108)


def test_schnet_on_propane_energy_only():
    # Every product has a forward, a gradient to its weights and one to its input; that of the
    # first filter layer, whose input is a distance, needs no gradient to the input.
    edge = 2 * (3 * 4)  # filter, first layer: 24
    edge += 3 * (4 * 4)  # filter, second layer: 48
    atom = 3 * (4 * 4)  # into the convolution: 48
    atom += 3 * (4 * 4 + 4 * 4)  # two layers out of it: 96
    atom += 3 * (4 * 2) + 3 * (2 * 1)  # readout, 4 to 2 to 1: 24 + 6
    assert (edge, atom) == (72, 174)
    by_hand = 2 * (108 * 72 + 11 * 174)
    assert by_hand == 19_380
    three_ways(made("schnet", width=4, num_layers=1, num_basis=3), propane(), "energy", by_hand)


def test_schnet_on_propane_with_forces():
    # Forces are a first derivative, and their loss is differentiated again. A product x·W inside
    # then counts six: forward; the force's gradient to x; in the second pass, gradients to x and
    # W of the first and to W and the incoming gradient of the second.
    edge = 5 * (3 * 4)  # filter, first layer: no gradient to the distances: 60
    edge += 6 * (4 * 4)  # filter, second layer: 96
    atom = 3 * (4 * 4)  # into the convolution: its input, the element, feels no force: 48
    atom += 6 * (4 * 4 + 4 * 4)  # out of it: 192
    atom += 6 * (4 * 2)  # readout, 4 to 2: 48
    atom += 5 * (2 * 1)  # 2 to 1: what comes in from the energy is the constant one: 10
    assert (edge, atom) == (156, 298)
    by_hand = 2 * (108 * 156 + 11 * 298)
    assert by_hand == 40_252
    model = made("schnet", width=4, num_layers=1, num_basis=3)
    three_ways(model, propane(), "energy-and-forces", by_hand)


def test_painn_on_propane_energy_only():
    # The envelope is a fourth radial function; a filter has three parts of 4 features.
    edge = 2 * ((3 + 1) * 12)  # filter: 96
    atom = 3 * (4 * 4 + 4 * 12)  # message, two layers: 192
    atom += 3 * (3 * (4 * 8))  # update: x, y and z of the vectors, 4 to 8: 288
    atom += 3 * (8 * 4 + 4 * 12)  # update, two layers: 240
    atom += 3 * (4 * 2) + 3 * (2 * 1)  # readout: 30
    assert (edge, atom) == (96, 750)
    by_hand = 2 * (108 * 96 + 11 * 750)
    assert by_hand == 37_236
    three_ways(made("painn", width=4, num_layers=1, num_basis=3), propane(), "energy", by_hand)


def test_painn_on_propane_with_forces():
    edge = 5 * ((3 + 1) * 12)  # filter: 240
    atom = 3 * (4 * 4 + 4 * 12)  # message: its input, the element, feels no force: 192
    atom += 6 * (3 * (4 * 8))  # update, vectors: 576
    atom += 6 * (8 * 4 + 4 * 12)  # update, two layers: 480
    atom += 6 * (4 * 2) + 5 * (2 * 1)  # readout: 58
    assert (edge, atom) == (240, 1306)
    by_hand = 2 * (108 * 240 + 11 * 1306)
    assert by_hand == 80_572
    model = made("painn", width=4, num_layers=1, num_basis=3)
    three_ways(model, propane(), "energy-and-forces", by_hand)


def test_chemgpt_on_ethanol():
    # <bos>[C][C][O] goes in, [C][C][O]<eos> is asked for: 4 tokens. Two layers of width 4, the
    # second with a window of 3; a vocabulary of 7.
    token = 2 * (4 * 12)  # queries, keys and values of both layers: 96
    token += 2 * (4 * 4)  # mix: 32
    token += 2 * (4 * 16 + 16 * 4)  # MLP: 256
    token += 4 * 7  # output: 28
    assert token == 412
    pairs = (1 + 2 + 3 + 4) + (1 + 2 + 3 + 3)  # first layer, second layer: 19
    pair = 4 + 4  # a score and a weighted sum, over both heads
    forward = 4 * token + pairs * pair  # 1648 + 152
    by_hand = 2 * 3 * forward  # the backward pass has two products for each
    assert by_hand == 10_800
    config = {"width": 4, "num_layers": 2, "num_heads": 2, "window": 3, "max_length": 8}
    three_ways(made("chemgpt", vocab_size=7, **config), ethanol(), "molecules", by_hand)


# --- real molecules ------------------------------------------------------------------------------


NAMES = ("C6H6", "CH3CH2OH", "C5H5N", "CH3CONH2", "C2H6NH", "isobutane")
SMILES = ("CC(=O)Oc1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "CC(C)Cc1ccc(cc1)C(C)C(=O)O")


@pytest.mark.parametrize("window", [256, 16])
@pytest.mark.parametrize("size", ["w16", "w64"])
def test_language_models_on_real_molecules(size: str, window: int):
    """Aspirin, caffeine and ibuprofen."""
    kind: Any = load_family("chemgpt")
    molecules = [encode(smiles) for smiles in SMILES]
    ids = {symbol: 4 + n for n, symbol in enumerate(dict.fromkeys(s for m in molecules for s in m))}
    fitted = {"window": window, "vocab_size": 4 + len(ids)}
    model = build(kind, kind.ladder[size].model_copy(update=fitted), 0, torch.float32)
    tokens = [np.array([ids[symbol] for symbol in symbols]) for symbols in molecules]
    lengths = np.array([len(one) for one in tokens])
    assert lengths.min() > 16
    together = TokenBatch.of(np.concatenate(tokens), lengths, lengths)
    expected = model.flops(model.seen(together), RECIPES["molecules"])
    # One at a time: in a batch the plain path pads the short ones, which is no work of ours.
    alone = [TokenBatch.of(one, np.array([len(one)]), np.array([len(one)])) for one in tokens]
    counted = sum(count_step(model, batch, RECIPES["molecules"]).flops for batch in alone)
    assert counted == pytest.approx(expected, rel=0.01)


# --- the counter itself --------------------------------------------------------------------------


def test_a_product_is_counted_by_its_shapes():
    one, two = torch.ones(3, 5), torch.ones(5, 7)
    with Products() as counted:
        one @ two
        torch.ones(2, 3, 5) @ torch.ones(2, 5, 7)
        one @ torch.ones(5)
        torch.einsum("ab,bc->ac", one, two)
    assert counted.flops == 2 * (3 * 5 * 7 + 2 * 3 * 5 * 7 + 3 * 5 + 3 * 5 * 7)


@pytest.mark.parametrize("windowed", [False, True])
def test_attention_counts_the_pairs_that_are_seen(windowed: bool):
    query, key, value = (torch.ones(2, 4, 6, 8, requires_grad=True) for _ in range(3))
    band = torch.ones(6, 6, dtype=torch.bool).tril().triu(-1)  # 11 pairs
    asked = {"attn_mask": band} if windowed else {"is_causal": True}  # or 21
    with Products() as counted:
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, **asked)
        forward = counted.flops
        out.sum().backward()
    assert forward == 2 * (2 * 4 * (11 if windowed else 21) * (8 + 8))
    assert counted.flops == 3 * forward


def test_what_has_no_rule_is_not_taken_for_nothing():
    with Products(), pytest.raises(NotImplementedError, match="convolution"):
        torch.nn.functional.conv1d(torch.ones(1, 1, 5), torch.ones(1, 1, 3))
