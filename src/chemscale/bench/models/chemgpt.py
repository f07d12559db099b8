"""ChemGPT: GPT-Neo over SELFIES symbols.

GPT-Neo (Black et al. 2021) is the decoder of GPT-3 with every other layer's attention limited to a
window. Frey et al., Nat. Mach. Intell. 5, 1297 (2023) trained it on molecules. With equal weights
the logits are those of `transformers.GPTNeoForCausalLM`. The vocabulary is the dataset's and the
batch has no padding; neither is so in the released ChemGPT.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from chemscale.bench.data.token_batch import BOS, EOS, PAD, TokenBatch
from chemscale.bench.models.counterpart import Counterpart, require
from chemscale.bench.models.transformer import Step, Transformer
from chemscale.bench.nn.activations import gelu
from chemscale.bench.nn.attention import CausalAttention, Packing
from chemscale.bench.nn.dense import Dense
from chemscale.bench.nn.kv_cache import Past
from chemscale.bench.nn.layers import initialise_normal
from chemscale.bench.nn.matrices import Linear
from chemscale.table.record import Record
from chemscale.table.records import Recipe


class ChemGPT(Transformer):
    """GPT-Neo as a `Transformer`."""

    class Config(Record):
        """Architecture of one size."""

        width: PositiveInt
        num_layers: PositiveInt
        num_heads: PositiveInt
        window: PositiveInt = 256  # tokens that every other layer sees
        max_length: PositiveInt = 512  # tokens of a molecule
        vocab_size: NonNegativeInt = 0  # 0: the dataset has not been asked yet

        @model_validator(mode="after")
        def _whole_heads(self) -> Self:
            if self.width % self.num_heads:
                raise ValueError(f"width {self.width} is no multiple of num_heads {self.num_heads}")
            return self

        @classmethod
        def of(cls, width: int, num_layers: int, num_heads: int) -> Self:
            """A size of the ladder."""
            return cls(width=width, num_layers=num_layers, num_heads=num_heads)

        @property
        def windows(self) -> tuple[int | None, ...]:
            """Of each layer: global and local in turn."""
            return tuple(self.window if i % 2 else None for i in range(self.num_layers))

    config: Config
    revision = 1
    # Depth grows with width; heads of 16 to 64 features.
    ladder = {
        f"w{config.width}": config
        for config in map(
            Config.of,
            (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048),
            (2, 2, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 22, 24),
            (1, 1, 2, 2, 2, 3, 4, 6, 8, 8, 8, 12, 16, 24, 32),
        )
    }

    def __init__(self, config: Config):
        super().__init__(config)
        assert config.vocab_size > 0, "fitted_config comes first"
        self.windows = config.windows
        self.symbols = nn.Embedding(config.vocab_size, config.width)
        self.places = nn.Embedding(config.max_length, config.width)
        self.layers = nn.ModuleList(
            Layer(config.width, config.num_heads, window) for window in config.windows
        )
        self.norm = nn.LayerNorm(config.width)
        self.apply(initialise_normal)

    def embedded(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """What the first layer reads: (T, F)."""
        return self.symbols(tokens) + self.places(positions)

    def step(self, layer: nn.Module) -> Step:
        return _Step(layer)

    def attended_pairs(self, batch: TokenBatch) -> int:
        local = sum(window is not None for window in self.windows)
        pairs = (len(self.windows) - local) * batch.pairs()
        return pairs + local * batch.pairs(self.windows[1]) if local else pairs

    @classmethod
    def flops_formula(cls, config: Config, recipe: Recipe) -> dict[str, float]:
        width, layers = config.width, config.num_layers
        # Per token: queries, keys, values and mix (4 F²), the two layers of the MLP (8 F²), output.
        token = layers * 12 * width**2 + width * config.vocab_size
        pair = 2 * width  # a score and a weighted sum
        # 2 per multiply-add; the backward pass has two products for each of the forward.
        return {"tokens": 6.0 * token, "pairs": 6.0 * pair}


class Layer(nn.Module):
    """One decoder layer, normalised before each half."""

    def __init__(self, width: int, num_heads: int, window: int | None):
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = CausalAttention(width, num_heads, window)
        self.norm_mlp = nn.LayerNorm(width)
        self.widen = Linear(width, 4 * width)
        self.narrow = Linear(4 * width, width)

    def forward(self, features: Tensor, packing: Packing) -> Tensor:
        """(T, F) to (T, F)."""
        features = features + self.attention(self.norm_attention(features), packing)  # (T, F)
        hidden = gelu(self.widen(self.norm_mlp(features)))  # (T, 4F)
        return features + self.narrow(hidden)  # (T, F)


class _Step:
    """A `Layer` for the next token of R sequences."""

    def __init__(self, layer: nn.Module):
        assert isinstance(layer, Layer)
        attention = layer.attention
        self.query_key_value = Dense(attention.query_key_value, layer.norm_attention)
        self.window = attention.window
        self.mix = Dense(attention.mix)
        self.widen = Dense(layer.widen, layer.norm_mlp, activated=True)
        self.narrow = Dense(layer.narrow)

    def __call__(self, features: Tensor, past: Past, positions: Tensor, slots: Tensor) -> Tensor:
        """(R, F) to (R, F)."""
        packed = self.query_key_value(features)  # (R, 3F)
        gathered = past.attend(packed, positions, slots, self.window)  # (R, F)
        features = self.mix(gathered, onto=features)
        return self.narrow(self.widen(features), onto=features)  # (R, F)


# --- exchange with transformers ------------------------------------------------------------------


def _to_config(config: ChemGPT.Config) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_layers": config.num_layers,
        "num_heads": config.num_heads,
        "max_position_embeddings": config.max_length,
        "window_size": config.window,
        "attention_types": [[["local" if window else "global"], 1] for window in config.windows],
        "resid_dropout": 0.0,
        "embed_dropout": 0.0,
        "attention_dropout": 0.0,
        # The defaults lie outside our vocabulary: generation would not stop.
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }


def _from_config(theirs: Mapping[str, Any]) -> ChemGPT.Config:
    width, layers = theirs["hidden_size"], theirs["num_layers"]
    kinds = theirs.get("attention_types") or [[["global", "local"], layers // 2]]
    require(
        {**theirs, "attention_types": [kind for group, n in kinds for kind in group * n]},
        {
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": True,
            "attention_types": ["local" if i % 2 else "global" for i in range(layers)],
        },
    )
    if theirs.get("intermediate_size") is not None:
        require(theirs, {"intermediate_size": 4 * width})
    return ChemGPT.Config.read(
        {
            "width": width,
            "num_layers": layers,
            "num_heads": theirs["num_heads"],
            "window": theirs.get("window_size", 256),
            "max_length": theirs.get("max_position_embeddings", 2048),
            "vocab_size": theirs["vocab_size"],
        },
        "config.json",
    )


_LAYER = {
    "norm_attention": "ln_1",
    "attention.mix": "attn.attention.out_proj",
    "norm_mlp": "ln_2",
    "widen": "mlp.c_fc",
    "narrow": "mlp.c_proj",
}

ChemGPT.counterpart = Counterpart(
    architecture="GPTNeoForCausalLM",
    model_type="gpt_neo",
    outer={
        "symbols.weight": "transformer.wte.weight",
        "places.weight": "transformer.wpe.weight",
        "norm.weight": "transformer.ln_f.weight",
        "norm.bias": "transformer.ln_f.bias",
    },
    layer={
        f"{here}.{kind}": (f"{there}.{kind}",)
        for here, there in _LAYER.items()
        for kind in ("weight", "bias")
    }
    | {"attention.query_key_value.weight": tuple(f"attn.attention.{c}_proj.weight" for c in "qkv")},
    layers="transformer.h",
    output="lm_head.weight",
    ignored=(".attention.bias", ".attention.masked_bias"),  # masks that older versions stored
    to_config=_to_config,
    from_config=_from_config,
)
