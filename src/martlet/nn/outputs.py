"""What a model returns: fields by name, by key and by place, as Hugging Face users read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from martlet.nn.cache import KVCache


class Fields:
    """Access by key and place for a dataclass; fields that are None are left out of both."""

    past_key_values: KVCache | None

    @property
    def cache(self) -> KVCache | None:
        """The newer name of `past_key_values`."""
        return self.past_key_values

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(value for _, value in self.items())

    def items(self) -> list[tuple[str, Any]]:
        named = ((field.name, getattr(self, field.name)) for field in fields(self))  # type: ignore[arg-type]
        return [(name, value) for name, value in named if value is not None]

    def keys(self) -> list[str]:
        return [name for name, _ in self.items()]

    def values(self) -> list[Any]:
        return [value for _, value in self.items()]

    def get(self, name: str, default: Any = None) -> Any:
        return dict(self.items()).get(name, default)

    def __getitem__(self, key: str | int | slice) -> Any:
        return dict(self.items())[key] if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, name: object) -> bool:
        return name in self.keys()


@dataclass
class ModelOutput(Fields):
    """`last_hidden_state` is `(B, P, hidden_size)`; `hidden_states` holds the embeddings and every layer's, the last
    one after the final norm; `attentions` one `(B, heads, P, length)` a layer. Zeros at padding."""

    last_hidden_state: Tensor
    past_key_values: KVCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class EncoderOutput(Fields):
    """An encoder's `ModelOutput`; `pooler_output` is `(B, hidden_size)`, None without a pooler."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class HeadOutput(Fields):
    """`logits` is `(B, num_labels)` of sequences, `(B, P, num_labels)` of tokens, `(B, choices)`, or `(B, P,
    vocab_size)` of masked tokens, zeros at padding; `loss` the mean over supervised items, given labels."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class QuestionAnsweringOutput(Fields):
    """Scores `(B, P)` of each token as an answer's start and end, minus infinity at padding."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class CausalLMOutput(Fields):
    """`logits` is `(B, P, vocab_size)`, zeros at padding; `loss` the mean over supervised tokens, given labels."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: KVCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
