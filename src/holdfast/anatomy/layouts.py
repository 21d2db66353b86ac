"""The vocabulary of the family table: how a weight is cut, and sets of leaf names that recur."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Config = Any
"""A ``transformers`` configuration object of one tower."""

Span = tuple[str, int, int]
"""``(unit, start, stop)`` within one period of the fused dimension."""

Cut = Callable[[Config, int], tuple[int, tuple[Span, ...]]]
"""``cut(config, size) -> (period, spans)`` for a fused dimension of ``size`` rows."""


@dataclass(frozen=True)
class Fused:
    """A leaf whose weight holds several units, laid side by side along its output dimension."""

    cut: Cut


Leaf = str | Fused
"""A unit (``"attn.q"``), a norm with its place (``"norm@attn.in"``), or a fused weight."""


@dataclass(frozen=True)
class Layout:
    """One row of the table of towers: where the blocks are and what their leaves are called.

    Paths are relative to the *core*, the module that holds the list of blocks. ``*`` stands
    for one component of a path.
    """

    names: str
    """Every ``config.model_type`` of a tower of this kind, with spaces between them."""
    blocks: tuple[str, ...]
    """Where the list of blocks is; the first path that exists is taken."""
    leaf: Mapping[str, Leaf]
    """Within a block: leaf path (module, or bare parameter) to what it is."""
    outer: Mapping[str, Leaf]
    """Outside of the blocks, the same. A path that ends in ``.**`` covers all below it."""
    tower: Literal["language", "vision"] = "language"
    projector: tuple[str, ...] = ()
    """Modules inside this tower that belong to the projector (Qwen-VL's merger)."""
    parallel: str | bool = False
    """Attention and MLP both read the block's input; or the config key that says whether."""

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(self.names.split())


@dataclass(frozen=True)
class Composite:
    """One row of the table of multimodal models: where the towers are.

    Paths are relative to the model, or to its ``model`` attribute.
    """

    names: str
    """Every ``config.model_type`` of a model of this kind, with spaces between them."""
    vision: tuple[str, ...] = ("vision_tower",)
    language: tuple[str, ...] = ("language_model",)
    projector: tuple[str, ...] = ("multi_modal_projector",)
    loose: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Parameters outside of every tower: path to ``(unit, reason)``."""

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(self.names.split())


def _head_dim(config: Config) -> int:
    given = getattr(config, "head_dim", None)
    return int(given or config.hidden_size // config.num_attention_heads)


def thirds(config: Config, size: int) -> tuple[int, tuple[Span, ...]]:
    """All queries, then all keys, then all values, of equal size (GPT-2, Qwen-VL's vision)."""
    n = size // 3
    return size, (("attn.q", 0, n), ("attn.k", n, 2 * n), ("attn.v", 2 * n, size))


def grouped(config: Config, size: int) -> tuple[int, tuple[Span, ...]]:
    """All queries, then the fewer keys and values of grouped-query attention (Phi-3)."""
    kv = int(config.num_key_value_heads) * _head_dim(config)
    q = size - 2 * kv
    return size, (("attn.q", 0, q), ("attn.k", q, q + kv), ("attn.v", q + kv, size))


def per_head(config: Config, size: int) -> tuple[int, tuple[Span, ...]]:
    """Query, key and value of head 0, then of head 1, and so on (GPT-NeoX, BLOOM)."""
    d = size // (3 * int(config.num_attention_heads))
    return 3 * d, (("attn.q", 0, d), ("attn.k", d, 2 * d), ("attn.v", 2 * d, 3 * d))


def falcon(config: Config, size: int) -> tuple[int, tuple[Span, ...]]:
    """Falcon's three layouts: grouped per key-value head, one shared key-value head, per head."""
    d = _head_dim(config)
    if config.new_decoder_architecture:
        groups = int(config.num_kv_heads)
        q = int(config.num_attention_heads) // groups * d
        return q + 2 * d, (("attn.q", 0, q), ("attn.k", q, q + d), ("attn.v", q + d, q + 2 * d))
    if config.multi_query:
        q = size - 2 * d
        return size, (("attn.q", 0, q), ("attn.k", q, q + d), ("attn.v", q + d, size))
    return per_head(config, size)


def bigcode(config: Config, size: int) -> tuple[int, tuple[Span, ...]]:
    """GPT-BigCode: all queries and one key-value head, or query, key, value of each head."""
    if not config.multi_query:
        return per_head(config, size)
    q = int(config.hidden_size)
    d = q // int(config.num_attention_heads)
    return size, (("attn.q", 0, q), ("attn.k", q, q + d), ("attn.v", q + d, size))


def codegen(config: Config, size: int) -> tuple[int, tuple[Span, ...]]:
    """CodeGen: four partitions, in each of them queries, values, keys, in this order."""
    d = size // 12
    return 3 * d, (("attn.q", 0, d), ("attn.v", d, 2 * d), ("attn.k", 2 * d, 3 * d))


def halves(config: Config, size: int) -> tuple[int, tuple[Span, ...]]:
    """The gate's rows, then the up projection's (Phi-3, packed experts)."""
    return size, (("mlp.gate", 0, size // 2), ("mlp.up", size // 2, size))


def alternating(config: Config, size: int) -> tuple[int, tuple[Span, ...]]:
    """Gate and up rows in turn (GPT-OSS)."""
    return 2, (("mlp.gate", 0, 1), ("mlp.up", 1, 2))


def attention(prefix: str, out: str = "o_proj") -> dict[str, Leaf]:
    """Separate query, key, value and output projections below ``prefix``."""
    names = {"attn.q": "q_proj", "attn.k": "k_proj", "attn.v": "v_proj", "attn.o": out}
    return {f"{prefix}.{name}": unit for unit, name in names.items()}


def fused(qkv: str, cut: Cut, out: str) -> dict[str, Leaf]:
    """One layer ``qkv`` for queries, keys and values, and the output projection ``out``."""
    return {qkv: Fused(cut), out: "attn.o"}


def gated(prefix: str) -> dict[str, Leaf]:
    """A gated MLP with three linear layers below ``prefix``."""
    return {f"{prefix}.{u}_proj": f"mlp.{u}" for u in ("gate", "up", "down")}


def plain(first: str, second: str) -> dict[str, Leaf]:
    """A two-layer MLP. The first layer plays ``mlp.up``, the second ``mlp.down``."""
    return {first: "mlp.up", second: "mlp.down"}


def experts(prefix: str, cut: Cut = halves) -> dict[str, Leaf]:
    """Expert weights packed in tensors of shape [experts, ...] below ``prefix``."""
    return {
        f"{prefix}.gate_up_proj": Fused(cut),
        f"{prefix}.gate_up_proj_bias": Fused(cut),
        f"{prefix}.down_proj": "mlp.down",
        f"{prefix}.down_proj_bias": "mlp.down",
    }


def norms(before_attention: str, before_mlp: str = "") -> dict[str, Leaf]:
    """The norms of a pre-norm block; with one name, both halves read the same norm."""
    both: dict[str, Leaf] = {before_attention: "norm@attn.in"}
    return both | ({before_mlp: "norm@mlp.in"} if before_mlp else {})
