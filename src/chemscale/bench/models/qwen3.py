"""Qwen3 over SELFIES symbols: the decoder of today beside that of 2021.

Rotary positions (Su et al. 2021) instead of a table, RMSNorm (Zhang, Sennrich 2019) instead of
LayerNorm, SwiGLU (Shazeer 2020) instead of GELU, normalised queries and keys (Henry et al. 2020),
no biases, no windows: the dense Qwen3 (Yang et al. 2025). With equal weights the logits are those
of `transformers.Qwen3ForCausalLM`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from chemscale.bench.data.token_batch import BOS, EOS, PAD, TokenBatch
from chemscale.bench.models.counterpart import Counterpart, require
from chemscale.bench.models.transformer import Step, Transformer
from chemscale.bench.nn.activations import silu
from chemscale.bench.nn.attention import Packing, attend
from chemscale.bench.nn.dense import Dense
from chemscale.bench.nn.kv_cache import Past
from chemscale.bench.nn.layers import initialise_normal
from chemscale.bench.nn.matrices import Linear
from chemscale.table.record import Record
from chemscale.table.records import Recipe

EPSILON = 1e-6  # of the norms


class Qwen3(Transformer):
    """The dense Qwen3 as a `Transformer`."""

    class Config(Record):
        """Architecture of one size."""

        width: PositiveInt
        num_layers: PositiveInt
        num_heads: PositiveInt
        hidden: PositiveInt  # features between the two layers of the MLP
        rotary_base: PositiveFloat = 10_000.0  # longest wavelength, in tokens / 2π
        max_length: PositiveInt = 512  # tokens of a molecule
        vocab_size: NonNegativeInt = 0  # 0: the dataset has not been asked yet

        @model_validator(mode="after")
        def _whole_heads(self) -> Self:
            if self.width % (2 * self.num_heads):
                raise ValueError(
                    f"width {self.width} is no multiple of twice num_heads {self.num_heads}: "
                    "features of a head are rotated in pairs"
                )
            return self

        @classmethod
        def of(cls, width: int, num_layers: int) -> Self:
            """A size of the ladder: heads of 32 features, an MLP as costly as that of GPT-Neo."""
            hidden = 16 * round(8 * width / 3 / 16)
            return cls(width=width, num_layers=num_layers, num_heads=width // 32, hidden=hidden)

        @property
        def head_size(self) -> int:
            """Features of a head."""
            return self.width // self.num_heads

    config: Config
    revision = 1
    # The widths and depths of chemgpt, from the first width that has a whole head of 32.
    ladder = {
        f"w{config.width}": config
        for config in map(
            Config.of,
            (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048),
            (2, 4, 5, 6, 7, 8, 10, 12, 16, 20, 22, 24),
        )
    }

    def __init__(self, config: Config):
        super().__init__(config)
        assert config.vocab_size > 0, "fitted_config comes first"
        self.rotary = Rotary(config.head_size, config.rotary_base)
        self.symbols = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.width, EPSILON)
        self.apply(initialise_normal)

    def positional(self, positions: Tensor) -> tuple[Turn]:
        """By how much each feature of a head is turned."""
        return (self.rotary(positions),)

    def step(self, layer: nn.Module) -> Step:
        return _Step(layer)

    def attended_pairs(self, batch: TokenBatch) -> int:
        return len(self.layers) * batch.pairs()

    @classmethod
    def flops_formula(cls, config: Config, recipe: Recipe) -> dict[str, float]:
        width, layers = config.width, config.num_layers
        # Per token: queries, keys, values and mix (4 F²), the three layers of the MLP, output.
        token = layers * (4 * width**2 + 3 * width * config.hidden) + width * config.vocab_size
        pair = 2 * width  # a score and a weighted sum
        # 2 per multiply-add; the backward pass has two products for each of the forward.
        return {"tokens": 6.0 * token, "pairs": 6.0 * pair}


class Layer(nn.Module):
    """One decoder layer, normalised before each half."""

    def __init__(self, config: Qwen3.Config):
        super().__init__()
        width, self.num_heads = config.width, config.num_heads
        self.norm_attention = nn.RMSNorm(width, EPSILON)
        self.query_key_value = Linear(width, 3 * width, bias=False)
        self.norm_query = nn.RMSNorm(config.head_size, EPSILON)
        self.norm_key = nn.RMSNorm(config.head_size, EPSILON)
        self.mix = Linear(width, width, bias=False)
        self.norm_mlp = nn.RMSNorm(width, EPSILON)
        self.gate_and_widen = Linear(width, 2 * config.hidden, bias=False)
        self.narrow = Linear(config.hidden, width, bias=False)

    def forward(self, features: Tensor, packing: Packing, turn: Turn) -> Tensor:
        """(T, F) to (T, F)."""
        packed = self.turned(self.query_key_value(self.norm_attention(features)), turn)  # (T, 3F)
        features = features + self.mix(attend(packed, packing, self.num_heads, None))  # (T, F)
        hidden = gated(self.gate_and_widen(self.norm_mlp(features)))
        return features + self.narrow(hidden)  # (T, F)

    def turned(self, packed: Tensor, turn: Turn) -> Tensor:
        """Queries and keys, beside values, normalised and turned: (T, 3F) to (T, 3F)."""
        query, key, value = packed.unflatten(1, (3, self.num_heads, -1)).unbind(1)  # (T, H, F/H)
        query = rotate(self.norm_query(query), turn) * query.shape[2] ** -0.5
        key = rotate(self.norm_key(key), turn)
        return torch.stack((query, key, value), dim=1).flatten(1)


def gated(both: Tensor) -> Tensor:
    """SwiGLU: the second half by the activated first."""
    gate, hidden = both.chunk(2, dim=1)
    return silu(gate) * hidden


class _Step:
    """A `Layer` for the next token of R sequences."""

    def __init__(self, layer: nn.Module):
        assert isinstance(layer, Layer)
        self.turned = layer.turned
        self.query_key_value = Dense(layer.query_key_value, layer.norm_attention)
        self.mix = Dense(layer.mix)
        self.gate_and_widen = Dense(layer.gate_and_widen, layer.norm_mlp)
        self.narrow = Dense(layer.narrow)

    def __call__(
        self, features: Tensor, past: Past, positions: Tensor, slots: Tensor, turn: Turn
    ) -> Tensor:
        """(R, F) to (R, F)."""
        packed = self.turned(self.query_key_value(features), turn)  # (R, 3F)
        features = self.mix(past.attend(packed, positions, slots), onto=features)
        return self.narrow(gated(self.gate_and_widen(features)), onto=features)  # (R, F)


Turn = tuple[Tensor, Tensor]  # cosine and sine of each angle: (T, 1, F/2H) each


class Rotary(nn.Module):
    """By how much the features of a head are turned at each place in a molecule."""

    def __init__(self, head_size: int, base: float):
        super().__init__()
        self.frequencies: Tensor
        exponents = torch.arange(0, head_size, 2, dtype=torch.float32) / head_size
        self.register_buffer("frequencies", base**-exponents, persistent=False)

    def forward(self, positions: Tensor) -> Turn:
        """Positions (T,) to cosines and sines."""
        angles = positions[:, None, None] * self.frequencies  # (T, 1, F/2H)
        return angles.cos(), angles.sin()


def rotate(heads: Tensor, turn: Turn) -> Tensor:
    """Turn each feature of the first half with its partner of the second: (T, H, F/H) to same."""
    cosine, sine = turn
    first, second = heads.chunk(2, dim=2)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=2)


# --- exchange with transformers ------------------------------------------------------------------


def _to_config(config: Qwen3.Config) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_heads,
        "head_dim": config.head_size,
        "max_position_embeddings": config.max_length,
        "rms_norm_eps": EPSILON,
        "rope_theta": config.rotary_base,
        "tie_word_embeddings": True,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }


def _from_config(theirs: Mapping[str, Any]) -> Qwen3.Config:
    width, heads = theirs["hidden_size"], theirs["num_attention_heads"]
    rotary = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    require(
        {**theirs, "rope_type": rotary.get("rope_type", "default")},
        {
            "hidden_act": "silu",
            "rms_norm_eps": EPSILON,
            "tie_word_embeddings": True,
            "attention_bias": False,
            "use_sliding_window": False,
            "num_key_value_heads": heads,
            "head_dim": width // heads,
            "rope_type": "default",
        },
    )
    return Qwen3.Config.read(
        {
            "width": width,
            "num_layers": theirs["num_hidden_layers"],
            "num_heads": heads,
            "hidden": theirs["intermediate_size"],
            "rotary_base": rotary.get("rope_theta") or theirs.get("rope_theta", 10_000.0),
            "max_length": theirs["max_position_embeddings"],
            "vocab_size": theirs["vocab_size"],
        },
        "config.json",
    )


Qwen3.counterpart = Counterpart(
    architecture="Qwen3ForCausalLM",
    model_type="qwen3",
    outer={"symbols.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"},
    layer={
        "norm_attention.weight": ("input_layernorm.weight",),
        "query_key_value.weight": tuple(f"self_attn.{c}_proj.weight" for c in "qkv"),
        "norm_query.weight": ("self_attn.q_norm.weight",),
        "norm_key.weight": ("self_attn.k_norm.weight",),
        "mix.weight": ("self_attn.o_proj.weight",),
        "norm_mlp.weight": ("post_attention_layernorm.weight",),
        "gate_and_widen.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
        "narrow.weight": ("mlp.down_proj.weight",),
    },
    layers="model.layers",
    output="lm_head.weight",
    ignored=(),
    to_config=_to_config,
    from_config=_from_config,
)
