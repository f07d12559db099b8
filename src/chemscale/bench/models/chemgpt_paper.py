"""ChemGPT on the ladder of the paper: 24 layers of 16 heads at every width.

Frey et al. grew width alone, from 16 to 2048 (the released 4.7M, 19M and 1.2B are w128, w256 and
w2048, named by parameters without embeddings): a head has one feature at w16 and 128 at w2048. The
network is `chemgpt`, whose own ladder grows depth and heads too; a study of both says how much
of an exponent belongs to the ladder.
"""

from __future__ import annotations

from chemscale.bench.models.chemgpt import ChemGPT


class PaperChemGPT(ChemGPT):
    """ChemGPT in the sizes of Frey et al., Nat. Mach. Intell. 5, 1297 (2023)."""

    ladder = {
        f"w{width}": ChemGPT.Config.of(width, num_layers=24, num_heads=16)
        for width in (16, 32, 64, 128, 256, 512, 1024, 2048)
    }
