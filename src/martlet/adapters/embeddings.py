"""Adapted embedding tables: low-rank changes of all rows, or a few rows that are trained whole."""

# r rank, V rows of the table, D width, K tokens of a few

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from martlet.adapters.config import LoraConfig, is_taken
from martlet.adapters.layers import LoraLinear, Merges, Routing, Switch
from martlet.errors import ArgumentError, UnsupportedError
from martlet.nn.draws import SampleDropout, mix


class LoraEmbedding(LoraLinear):
    """A table's rows + s (B A)'. A `(r, V)` begins at zero, B `(D, r)` normal, as PEFT's do. With DoRA, a magnitude is
    the length of one of the D columns."""

    along = 0

    def __init__(self, base_layer: Any, switch: Switch) -> None:
        super().__init__(base_layer, switch)
        self.lora_embedding_A, self.lora_embedding_B = nn.ParameterDict(), nn.ParameterDict()

    def a(self, name: str) -> Tensor:
        """`(r, V)`."""
        weight: Tensor = self.lora_embedding_A[name]
        return weight

    def b(self, name: str) -> Tensor:
        """`(D, r)`."""
        weight: Tensor = self.lora_embedding_B[name]
        return weight

    @property
    def bias(self) -> None:
        return None

    @property
    def in_features(self) -> int:
        return int(self.base_layer.num_embeddings)

    @property
    def out_features(self) -> int:
        return int(self.base_layer.embedding_dim)

    num_embeddings, embedding_dim = in_features, out_features

    def add(self, name: str, config: LoraConfig, paths: Sequence[str]) -> None:
        """A new adapter, that changes nothing yet."""
        rank, init = config.rank(paths), config.init_lora_weights
        if is_taken(init) or init == "orthogonal":
            raise UnsupportedError("init_lora_weights", "is for matrices, not for embeddings", found=repr(init))
        generator = torch.Generator().manual_seed(mix(torch.initial_seed(), *f"{name} {paths[0]}".encode()) >> 1)
        b = torch.empty(self.out_features, rank).normal_(generator=generator)
        a = torch.zeros(rank, self.in_features)
        if init is False:
            a.normal_(generator=generator)
        self.lora_embedding_A[name] = nn.Parameter(a.to(self.weight.device))
        self.lora_embedding_B[name] = nn.Parameter(b.to(self.weight.device))
        self.lora_dropout[name] = SampleDropout(0.0)  # PEFT has none here
        self.scaling[name], self.lora_alpha[name] = config.scaling(paths), config.alpha(paths)

    def remove(self, name: str) -> None:
        super().remove(name)
        for each in (self.lora_embedding_A, self.lora_embedding_B):
            if name in each:
                del each[name]

    def change(self, name: str) -> Tensor:
        """s (B A)', float32."""
        out: Tensor = (self.a(name).float().T @ self.b(name).float().T) * self.scaling[name]
        return out

    def _added(self, name: str, x: Tensor, base: Tensor) -> Tensor:
        low: Tensor = F.linear(F.embedding(x, self.a(name).T), self.b(name)) * self.scaling[name]
        magnitude = self.magnitude(name)
        if magnitude is None:
            return low.to(base.dtype)
        share = magnitude / self._lengths(name).to(low.dtype)
        changed: Tensor = ((share - 1) * base.to(low.dtype) + share * low).to(base.dtype)
        return changed


class TrainedTokens(Merges):
    """A table of which each adapter has some tokens' rows as its own; a head tied to it reads them too."""

    def __init__(self, base_layer: Any, switch: Switch) -> None:
        super().__init__(base_layer)
        self.switch = switch
        self.trainable_tokens_delta = nn.ParameterDict()
        self.indices: dict[str, Tensor] = {}

    @property
    def weight(self) -> Tensor:
        weight: Tensor = self.base_layer.weight
        return weight

    @property
    def num_embeddings(self) -> int:
        return int(self.base_layer.num_embeddings)

    @property
    def embedding_dim(self) -> int:
        return int(self.base_layer.embedding_dim)

    def add(self, name: str, tokens: Sequence[int]) -> None:
        """An adapter's own rows, at first the table's."""
        listed = [int(each) for each in tokens]
        if not listed or len(set(listed)) != len(listed) or not 0 <= min(listed) <= max(listed) < self.num_embeddings:
            raise ArgumentError(
                "trainable_token_indices", f"must be different ids below {self.num_embeddings}", found=listed[:8]
            )
        self.indices[name] = torch.tensor(listed, device=self.weight.device)
        rows = self.weight.detach()[self.indices[name]].clone()
        self.trainable_tokens_delta[name] = nn.Parameter(rows.float() if rows.dtype != torch.float64 else rows)

    def remove(self, name: str) -> None:
        if name in self.trainable_tokens_delta:
            del self.trainable_tokens_delta[name]
            del self.indices[name]

    def acting(self) -> list[str]:
        return [name for name in self.switch.acting if name in self.trainable_tokens_delta]

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.base_layer(ids)
        if _routing(self.switch, self.trainable_tokens_delta) is not None:
            raise UnsupportedError("adapter_names", "rows of a batch share the tokens an adapter trains")
        for name in self.acting():
            place_V = torch.full((self.num_embeddings,), -1, device=ids.device)
            place_V[self.indices[name]] = torch.arange(len(self.indices[name]), device=ids.device)
            place = place_V[ids]
            own = F.embedding(place.clamp(min=0), self.trainable_tokens_delta[name]).to(out.dtype)
            out = torch.where((place >= 0)[..., None], own, out)
        return out

    def merged_weight(self, names: Sequence[str]) -> Tensor:
        weight = self.weight.detach().clone()
        for name in names:
            if name in self.indices:
                weight[self.indices[name]] = self.trainable_tokens_delta[name].detach().to(weight.dtype)
        return weight

    def merge(self, names: Sequence[str], is_checked: bool) -> None:
        self.put(self.merged_weight(names), is_checked)


class TiedHead(nn.Module):
    """A head that is the embedding table: its scores of the tokens an adapter trains are by the adapter's rows."""

    def __init__(self, base_layer: Any, table: TrainedTokens) -> None:
        super().__init__()
        self.base_layer: Any = base_layer
        self.tables = (table,)  # in a tuple it is no module of this one: its rows are parameters of the table

    @property
    def weight(self) -> Tensor:
        weight: Tensor = self.base_layer.weight
        return weight

    @property
    def bias(self) -> Tensor | None:
        bias: Tensor | None = self.base_layer.bias
        return bias

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base_layer(x)
        table = self.tables[0]
        for name in table.acting():
            rows = table.trainable_tokens_delta[name]
            scores = F.linear(x.to(rows.dtype), rows)
            if self.bias is not None:
                scores = scores + self.bias[table.indices[name]]
            out = out.index_copy(-1, table.indices[name], scores.to(out.dtype))
        return out


def _routing(switch: Switch, known: Any) -> Routing | None:
    routing = None if switch.is_disabled or switch.merged else switch.routing
    return routing if routing is not None and any(name in known for name in routing.adapters) else None
