"""What a model is: sizes, named choices, the name and shape of every weight, and what they cost. No tensors, no I/O."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from martlet.errors import ConfigError


class Norm(StrEnum):
    """How activations are normalised. All run in float32."""

    RMS = "rms"  # x / rms(x) * w (Zhang & Sennrich 2019)
    RMS_PLUS_ONE = "rms_plus_one"  # the checkpoint stores w - 1 (Gemma)
    LAYER = "layer"  # mean and variance, weight and bias (Ba et al. 2016)


class Placement(StrEnum):
    """Where the norms of a block stand; a is attention, m is the MLP, n1..n4 are norms."""

    PRE = "pre"  # x += a(n1 x); x += m(n2 x)
    POST = "post"  # x = n1(x + a x); x = n2(x + m x)
    OUTPUT = "output"  # x += n1(a x); x += n2(m x)
    SANDWICH = "sandwich"  # x += n2(a(n1 x)); x += n4(m(n3 x))
    PARALLEL = "parallel"  # x += a(n1 x) + m(n2 x)
    PARALLEL_SHARED = "parallel_shared"  # x += a(n1 x) + m(n1 x)


class Activation(StrEnum):
    """The MLP's non-linearity."""

    SILU = "silu"
    GELU = "gelu"  # x * Phi(x), by erf
    GELU_TANH = "gelu_tanh"  # the tanh approximation (Hendrycks & Gimpel 2016)
    RELU = "relu"
    TANH = "tanh"  # poolers and classifiers


class QKNorm(StrEnum):
    """RMS norm of queries and keys, before the rotation."""

    NONE = "none"
    HEAD = "head"  # each head by itself; one weight of length head_dim
    FULL = "full"  # all heads together; a weight as long as the projection


class RopeScaling(StrEnum):
    """How rotary frequencies are stretched beyond the trained length."""

    NONE = "none"
    LINEAR = "linear"  # all frequencies / factor
    LLAMA3 = "llama3"  # low frequencies / factor, high ones kept, between them a ramp
    YARN = "yarn"  # Peng et al. 2023
    LONGROPE = "longrope"  # a factor for each frequency, another table beyond the trained length
    DYNAMIC = "dynamic"  # theta grows with the length, beyond the trained length


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding (Su et al. 2021), rotate-half layout."""

    theta: float = 10_000.0
    fraction: float = 1.0  # the share of head_dim that turns; the rest passes through
    scaling: RopeScaling = RopeScaling.NONE
    factor: float = 1.0
    original_positions: int = 0  # the length before scaling
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    truncate: bool = True  # yarn: the ramp's ends are rounded to whole dimensions
    short_factor: tuple[float, ...] = ()  # longrope, up to original_positions
    long_factor: tuple[float, ...] = ()  # longrope, beyond
    attention_factor: float = 1.0  # multiplies cos and sin

    def num_rotated(self, head_dim: int) -> int:
        """Dimensions of a head that turn: an even number."""
        return int(head_dim * self.fraction)


@dataclass(frozen=True, slots=True)
class Layer:
    """What may differ from layer to layer."""

    rope: Rope | None = Rope()  # None: no rotation here
    window: int = 0  # a token sees itself and window - 1 before it; 0: all


@dataclass(frozen=True, slots=True)
class Dropout:
    """Shares of values dropped while training (Srivastava et al. 2014); inference knows none."""

    embeddings: float = 0.0
    attention: float = 0.0  # of the softmax's weights
    residual: float = 0.0  # of what attention and the MLP give, before it is added


class Task(StrEnum):
    """What a head over the body's final states answers."""

    SEQUENCE = "sequence-classification"  # a row of scores for each sequence
    TOKEN = "token-classification"  # for each token
    QUESTION = "question-answering"  # where an answer starts and ends
    CHOICE = "multiple-choice"  # one score for each of several sequences


class Reads(StrEnum):
    """Which final states a head reads."""

    EVERY = "every"
    FIRST = "first"
    LAST = "last"
    POOLED = "pooled"  # the pooler's output


@dataclass(frozen=True, slots=True)
class Head:
    """A classifier: [dropout] [dense, its activation] dropout, matrix."""

    task: Task
    num_labels: int
    reads: Reads
    dense: Activation | None = None  # a square matrix first, and this after it
    bias: bool = True
    dropout: float = 0.0
    drops_first: bool = False  # dropout before the dense matrix too


@dataclass(frozen=True, slots=True)
class Parts:
    """What a model has besides its body."""

    pooler: bool = False
    lm_head: bool = False
    head: Head | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Arch:
    """A transformer of one stack, whole. Both backends, the readers and the estimates are written against this."""

    # sizes
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    layers: tuple[Layer, ...]
    max_position_embeddings: int  # the context length, in tokens
    # norms
    norm: Norm = Norm.RMS
    norm_eps: float = 1e-6
    placement: Placement = Placement.PRE
    final_norm: bool = True  # a norm after the last block
    qk_norm: QKNorm = QKNorm.NONE
    # positions and embeddings
    position_table: int = 0  # rows of a learned position table; 0: none
    position_offset: int = 0  # the table's row of position 0 (OPT keeps two rows before it)
    embedding_size: int = 0  # token vectors narrower than hidden_size, with projections in and out; 0: the same
    embed_scale: float = 1.0  # multiplies token vectors
    token_types: int = 0  # rows of a table of segments, added to token vectors; 0: none
    embed_norm: bool = False  # a norm of the summed embeddings
    # attention
    causal: bool = True  # a token sees those before it; False: the whole row (an encoder)
    qkv_bias: bool = False
    out_bias: bool = False  # bias of o_proj
    attn_scale: float = 0.0  # multiplies q.k; 0: head_dim ** -0.5
    attn_softcap: float = 0.0  # scores become cap * tanh(scores / cap); 0: none
    # mlp
    activation: Activation = Activation.SILU
    gated: bool = True  # down(act(gate x) * up x), rather than down(act(up x))
    mlp_bias: bool = False
    # out
    residual_scale: float = 1.0  # multiplies what a block adds to the residual stream
    pooler: bool = False  # tanh(dense(first token)) beside the final states (BERT)
    tied: bool = False  # the head is the embedding table
    head_transform: bool = False  # dense, activation and norm before the head (BERT)
    head_bias: bool = False
    logit_scale: float = 1.0  # multiplies logits
    logit_softcap: float = 0.0
    # training
    dropout: Dropout = field(default=Dropout(), compare=False)  # a model that drops infers as one that does not

    def __post_init__(self) -> None:
        counts = "vocab_size hidden_size intermediate_size num_attention_heads num_key_value_heads"
        for name in (*counts.split(), "max_position_embeddings"):
            size = getattr(self, name)
            if size < 1:
                raise ConfigError("config", f"{name} must be at least 1", found=size)
        if self.norm_eps < 0:
            raise ConfigError("config", "the epsilon of norms must not be negative", found=self.norm_eps)
        if not self.layers:
            raise ConfigError("config", "num_hidden_layers must be at least 1", found=0)
        if self.head_dim < 1:
            raise ConfigError("config", "head_dim must be at least 1", found=self.head_dim)
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                "config",
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})",
                remedy="Is config.json from the same checkpoint?",
            )
        if not self.causal and any(layer.window for layer in self.layers):
            raise ConfigError("config", "windows are supported for causal models only")
        for layer in self.layers:
            if layer.rope and layer.rope.num_rotated(self.head_dim) % 2:
                raise ConfigError(
                    "config",
                    f"the rotated part of head_dim ({self.head_dim}) must be even",
                    found=layer.rope.num_rotated(self.head_dim),
                )

    def but(self, **changes: Any) -> Arch:
        """A copy with some fields changed."""
        return replace(self, **changes)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def query_size(self) -> int:
        """Rows of q_proj."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Rows of k_proj, and of v_proj."""
        return self.num_key_value_heads * self.head_dim

    @property
    def token_vector_size(self) -> int:
        return self.embedding_size or self.hidden_size

    @property
    def score_scale(self) -> float:
        """What q.k is multiplied by."""
        return self.attn_scale or self.head_dim**-0.5

    @property
    def parallel(self) -> bool:
        """Attention and MLP read the same residual stream."""
        return self.placement in (Placement.PARALLEL, Placement.PARALLEL_SHARED)


HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"


def block_norms(arch: Arch) -> tuple[str, ...]:
    """Names of a block's norms, without the layer prefix, in the order the placement numbers them."""
    match arch.placement:
        case Placement.SANDWICH:
            return (
                "input_layernorm",
                "post_attention_layernorm",
                "pre_feedforward_layernorm",
                "post_feedforward_layernorm",
            )
        case Placement.OUTPUT:
            return ("post_attention_layernorm", "post_feedforward_layernorm")
        case Placement.PARALLEL_SHARED:
            return ("input_layernorm",)
        case _:
            return ("input_layernorm", "post_attention_layernorm")


def linear_shapes(arch: Arch) -> Iterator[tuple[str, tuple[int, int], bool]]:
    """Name, (rows out, columns in) and bias of every matrix of one block, without the layer prefix."""
    hidden, ffn = arch.hidden_size, arch.intermediate_size
    yield "self_attn.q_proj", (arch.query_size, hidden), arch.qkv_bias
    yield "self_attn.k_proj", (arch.key_value_size, hidden), arch.qkv_bias
    yield "self_attn.v_proj", (arch.key_value_size, hidden), arch.qkv_bias
    yield "self_attn.o_proj", (hidden, arch.query_size), arch.out_bias
    if arch.gated:
        yield "mlp.gate_proj", (ffn, hidden), arch.mlp_bias
    yield "mlp.up_proj", (ffn, hidden), arch.mlp_bias
    yield "mlp.down_proj", (hidden, ffn), arch.mlp_bias


def whole(arch: Arch) -> Parts:
    """Every part of a model that predicts tokens."""
    return Parts(pooler=arch.pooler, lm_head=True)


def tensors(arch: Arch, parts: Parts | None = None) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of a model with these `parts` (`whole`, if not given), in checkpoint order.

    A tied head is not listed.
    """
    parts = parts or whole(arch)
    out: dict[str, tuple[int, ...]] = {}

    def put_norm(name: str, size: int) -> None:
        out[f"{name}.weight"] = (size,)
        if arch.norm is Norm.LAYER:
            out[f"{name}.bias"] = (size,)

    def put_linear(name: str, rows: int, columns: int, bias: bool = True) -> None:
        out[f"{name}.weight"] = (rows, columns)
        if bias:
            out[f"{name}.bias"] = (rows,)

    out[EMBEDDING] = (arch.vocab_size, arch.token_vector_size)
    if arch.position_table:
        out["model.embed_positions.weight"] = (arch.position_table, arch.hidden_size)
    if arch.token_types:
        out["model.embed_types.weight"] = (arch.token_types, arch.hidden_size)
    if arch.embed_norm:
        put_norm("model.embed_norm", arch.hidden_size)
    if arch.embedding_size:
        out["model.project_in.weight"] = (arch.hidden_size, arch.embedding_size)
        out["model.project_out.weight"] = (arch.embedding_size, arch.hidden_size)
    for index in range(arch.num_layers):
        prefix = f"model.layers.{index}."
        for name, shape, bias in linear_shapes(arch):
            put_linear(prefix + name, *shape, bias)
        if arch.qk_norm is not QKNorm.NONE:
            full = arch.qk_norm is QKNorm.FULL
            out[f"{prefix}self_attn.q_norm.weight"] = (arch.query_size if full else arch.head_dim,)
            out[f"{prefix}self_attn.k_norm.weight"] = (arch.key_value_size if full else arch.head_dim,)
        for name in block_norms(arch):
            put_norm(prefix + name, arch.hidden_size)
    if arch.final_norm:
        put_norm("model.norm", arch.hidden_size)
    if parts.pooler:
        put_linear("model.pooler.dense", arch.hidden_size, arch.hidden_size)
    if parts.lm_head:
        if arch.head_transform:
            put_linear("lm_transform.dense", arch.token_vector_size, arch.hidden_size)
            put_norm("lm_transform.norm", arch.token_vector_size)
        if not arch.tied:
            out[HEAD] = (arch.vocab_size, arch.token_vector_size)
        if arch.head_bias:
            out["lm_head.bias"] = (arch.vocab_size,)
    if parts.head is not None:
        width = arch.token_vector_size  # of the final states: OPT-350m projects them out
        if parts.head.dense is not None:
            put_linear("head.dense", width, width)
        put_linear("head.out", parts.head.num_labels, width, parts.head.bias)
    return out


def num_parameters(arch: Arch, shapes: Mapping[str, tuple[int, ...]] | None = None) -> int:
    """Weights counted once each; a tied head adds none."""
    return sum(math.prod(shape) for shape in (shapes or tensors(arch)).values())


def weight_bytes(arch: Arch, bytes_per_weight: float) -> int:
    """Memory of all weights, in bytes."""
    return math.ceil(num_parameters(arch) * bytes_per_weight)


def cache_bytes(arch: Arch, num_tokens: int, bytes_per_value: float = 2.0) -> int:
    """Memory of keys and values of one sequence of `num_tokens`; a windowed layer keeps its window only."""
    kept = sum(min(num_tokens, layer.window or num_tokens) for layer in arch.layers)
    return math.ceil(kept * 2 * arch.key_value_size * bytes_per_value)


def step_flops(arch: Arch, num_tokens: int, past: int = 0) -> int:
    """Multiply-adds times two of one forward pass over `num_tokens` after `past`, logits of the last one only."""
    linear = sum(rows * columns for _, (rows, columns), _ in linear_shapes(arch)) * arch.num_layers
    head = arch.vocab_size * arch.token_vector_size
    pairs = 0
    for layer in arch.layers:
        seen = range(past + 1, past + num_tokens + 1)
        pairs += sum(min(length, layer.window or length) for length in seen)
    attention = 2 * pairs * arch.query_size
    return 2 * (linear * num_tokens + head + attention)
