"""What Llama-like configs say alike: the frame of an `Arch`, activations, head widths, sliding windows."""

from __future__ import annotations

from martlet.arch import Activation, Arch, Dropout, Layer, Rope
from martlet.families.reader import Reader
from martlet.families.rope_config import read_rope

ACTIVATIONS = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu": Activation.GELU,
    "gelu_python": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "gelu_accurate": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "gelu_python_tanh": Activation.GELU_TANH,
    "relu": Activation.RELU,
}


def read_activation(c: Reader, key: str = "hidden_act", default: str = "silu") -> Activation:
    """The MLP's activation by Hugging Face's name."""
    name = c.text(key, default)
    if name not in ACTIVATIONS:
        raise c.error(f"{key} must be one of {', '.join(ACTIVATIONS)}", name)
    return ACTIVATIONS[name]


def read_head_dim(c: Reader, *, hidden: str = "hidden_size", heads: str = "num_attention_heads") -> int:
    """head_dim, or hidden_size shared out among the heads where it is absent."""
    if "head_dim" in c:
        return c.size("head_dim")
    width, num_heads = c.size(hidden), c.size(heads)
    if num_heads < 1 or width % num_heads:
        raise c.error(f"{hidden} ({width}) must be a multiple of {heads} ({num_heads})")
    return width // num_heads


def read_dropout(c: Reader, *, embeddings: str = "", attention: str = "", residual: str = "", rate: float) -> Dropout:
    """Rates by the family's keys, `rate` where a key is absent; a place without a key drops nothing."""
    rates = {"embeddings": embeddings, "attention": attention, "residual": residual}
    found = {place: c.number(key, rate) for place, key in rates.items() if key}
    for place, share in found.items():
        if not 0 <= share < 1:
            raise c.error(f"{rates[place]} must be at least 0 and below 1", share)
    return Dropout(**found)


def decoder(
    c: Reader,
    *,
    theta: float = 10_000.0,
    eps: float = 1e-6,
    longest: int = 2048,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    rope: Rope | None = None,
    activation: Activation | None = None,
    tied: bool = False,
) -> Arch:
    """The frame of a Llama-like config. The arguments are the family's defaults for keys a config may leave out;
    a `head_dim`, a `rope` or an `activation` is one the family read itself."""
    heads = c.size("num_attention_heads")
    head_dim = head_dim or read_head_dim(c)
    rope = rope or read_rope(c, head_dim=head_dim, theta=theta)
    biased = c.flag("attention_bias", False)
    return Arch(
        vocab_size=c.size("vocab_size"),
        hidden_size=c.size("hidden_size"),
        intermediate_size=c.size("intermediate_size"),
        num_attention_heads=heads,
        num_key_value_heads=c.size(
            "num_key_value_heads", heads if c.is_null("num_key_value_heads") else kv_heads or heads
        ),
        head_dim=head_dim,
        layers=(Layer(rope),) * c.num_layers(),
        max_position_embeddings=c.size("max_position_embeddings", longest),
        norm_eps=c.number("rms_norm_eps", eps),
        activation=activation or read_activation(c),
        qkv_bias=biased,
        out_bias=biased,
        mlp_bias=c.flag("mlp_bias", False),
        dropout=read_dropout(c, attention="attention_dropout", rate=0.0),
        tied=c.flag("tie_word_embeddings", tied),
    )


def read_window(c: Reader, default: int = 0) -> int:
    """Tokens a sliding layer sees, itself included; 0 where null turns sliding off; the default if there is no key."""
    if c.is_null("sliding_window"):
        return 0
    window = c.size("sliding_window", default)
    if window < 1 and "sliding_window" in c:
        raise c.error("sliding_window must be at least 1, or null", window)
    return window


def read_layer_types(c: Reader, num_layers: int) -> list[bool] | None:
    """Which layers slide, by `layer_types`; None where the config does not say."""
    types = c.value("layer_types")
    if types is None:
        return None
    kinds = {"sliding_attention": True, "full_attention": False}
    if (
        not isinstance(types, list)
        or len(types) != num_layers
        or not all(isinstance(t, str) and t in kinds for t in types)
    ):
        raise c.error(f"layer_types must be {num_layers} of {', '.join(kinds)}", types)
    return [kinds[kind] for kind in types]


def with_windows(c: Reader, arch: Arch, window: int, is_sliding: list[bool]) -> Arch:
    """`arch` with a window on the layers that slide, `layer_types` deciding where it is given."""
    is_sliding = read_layer_types(c, arch.num_layers) or (is_sliding if window else [False] * arch.num_layers)
    if any(is_sliding) and not window:
        raise c.error("layer_types names sliding_attention, so sliding_window must be given and in use")
    pairs = zip(arch.layers, is_sliding, strict=True)
    return arch.but(layers=tuple(Layer(layer.rope, window if slides else 0) for layer, slides in pairs))
