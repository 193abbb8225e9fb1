"""Adapted layers: a frozen matrix with low-rank changes beside it; modules of which each adapter has its own copy."""

# T tokens of all rows end to end, r rank

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from martlet.adapters.config import LoraConfig, is_taken
from martlet.adapters.inits import First, draw, take
from martlet.errors import ArgumentError, UnsupportedError
from martlet.nn.compute import has_listeners, is_plain
from martlet.nn.draws import SampleDropout
from martlet.nn.lean import LowRank, changed_linear, gated_product, gated_silu
from martlet.nn.packed import PackedLinear

BASE = "__base__"  # PEFT's name for a row without an adapter


@dataclass(frozen=True, slots=True)
class Routing:
    """Which adapter each row of the running batch has, and how many tokens."""

    adapters: tuple[str, ...]
    lengths: tuple[int, ...]

    def tokens_of(self, name: str, device: torch.device) -> Tensor:
        """Places among the T tokens of the rows of one adapter."""
        is_own = torch.tensor([adapter == name for adapter in self.adapters])
        return is_own.repeat_interleave(torch.tensor(self.lengths)).nonzero()[:, 0].to(device)

    def rows_of(self, name: str, device: torch.device) -> Tensor:
        return torch.tensor([row for row, each in enumerate(self.adapters) if each == name], device=device)

    def places(self, name: str, x: Tensor) -> Tensor:
        """Places in `x`, whose first size is the tokens' or the rows'."""
        if len(x) == sum(self.lengths):
            return self.tokens_of(name, x.device)
        if len(x) == len(self.adapters):
            return self.rows_of(name, x.device)
        raise ArgumentError("adapter_names", "a module reads part of the tokens, so rows cannot be told apart in it")


class Switch:
    """What all adapted layers of one model share: which adapters act, and on which rows."""

    def __init__(self) -> None:
        self.active: list[str] = []
        self.is_disabled = False
        self.routing: Routing | None = None
        self.merged: list[str] = []

    @property
    def acting(self) -> list[str]:
        """Adapters to add to the base's output."""
        return [] if self.is_disabled or self.merged else self.active


class Merges(nn.Module):
    """A layer around `base_layer` that can put another weight in the place of its own, and give the own one back."""

    def __init__(self, base_layer: Any) -> None:
        super().__init__()
        self.base_layer: Any = base_layer
        self.originals: list[Any] = []  # the base's weight while adapters are merged; in a list it is no parameter

    def put(self, merged: Tensor, is_checked: bool) -> None:
        """`merged` in the place of the base's weight. ArgumentError if it `is_checked` and not finite."""
        if is_checked and not bool(torch.isfinite(merged).all()):
            raise ArgumentError("merge", "adapters must give finite weights", found="NaN or infinity")
        self.originals = [self.base_layer.weight]
        self.base_layer.weight = nn.Parameter(merged, requires_grad=False)

    def unmerge(self) -> None:
        """The weight that was there before, bit for bit."""
        if self.originals:
            self.base_layer.weight = self.originals.pop()


class Factor(nn.Module):
    """A weight of one adapter, where PEFT has it: `layer.lora_A["default"].weight`."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class LoraLinear(Merges):
    """W x + b + s B A dropout(x) for each active adapter; with DoRA, W + s B A scaled to learnt row magnitudes."""

    along = 1  # what a magnitude is the length of: rows

    def __init__(self, base_layer: Any, switch: Switch) -> None:
        super().__init__(base_layer)
        self.switch = switch
        self.lora_A, self.lora_B = nn.ModuleDict(), nn.ModuleDict()
        self.lora_magnitude_vector = nn.ModuleDict()
        self.lora_dropout = nn.ModuleDict()
        self.scaling: dict[str, float] = {}
        self.lora_alpha: dict[str, float] = {}
        self.taken: dict[str, First] = {}  # what the base's weight lacks since an adapter began with a part of it

    def knows(self, name: str) -> bool:
        """Whether an adapter of this name changes this layer."""
        return name in self.scaling

    def a(self, name: str) -> Tensor:
        """`(r, I)`."""
        weight: Tensor = self.lora_A[name].weight  # type: ignore[assignment]
        return weight

    def b(self, name: str) -> Tensor:
        """`(O, r)`."""
        weight: Tensor = self.lora_B[name].weight  # type: ignore[assignment]
        return weight

    def magnitude(self, name: str) -> Tensor | None:
        """DoRA's magnitudes of an adapter that has them."""
        if name not in self.lora_magnitude_vector:
            return None
        weight: Tensor = self.lora_magnitude_vector[name].weight  # type: ignore[assignment]
        return weight

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight of every adapter, with the adapter's name."""
        for name in self.scaling:
            yield from ((name, self.a(name)), (name, self.b(name)))
            magnitude = self.magnitude(name)
            if magnitude is not None:
                yield name, magnitude

    @property
    def merged_adapters(self) -> list[str]:
        """Adapters that are in the base's weight."""
        return [name for name in self.switch.merged if self.knows(name)]

    @property
    def merged(self) -> bool:
        return bool(self.merged_adapters)

    @property
    def active_adapters(self) -> list[str]:
        return list(self.switch.active)

    @property
    def disable_adapters(self) -> bool:
        """Whether no adapter acts."""
        return self.switch.is_disabled

    def get_base_layer(self) -> Any:
        """The layer inside, without adapters."""
        return self.base_layer

    @property
    def r(self) -> dict[str, int]:
        """The rank of each adapter."""
        return {name: len(self.a(name)) for name in self.scaling}

    @property
    def weight(self) -> Tensor:
        weight: Tensor = self.base_layer.weight
        return weight

    @property
    def bias(self) -> Tensor | None:
        bias: Tensor | None = self.base_layer.bias
        return bias

    @property
    def in_features(self) -> int:
        return int(self.base_layer.in_features)

    @property
    def out_features(self) -> int:
        return int(self.base_layer.out_features)

    def add(self, name: str, config: LoraConfig, paths: Sequence[str]) -> None:
        """A new adapter; its first weights are a function of torch's seed, its name and the layer's path, or taken out
        of the base's weight."""
        rank, scaling, init = config.rank(paths), config.scaling(paths), config.init_lora_weights
        device = self.weight.device
        if is_taken(init):
            first = self._take(name, str(init), rank, scaling)
        else:
            first = draw(init, rank, (self.out_features, self.in_features), f"{name} {paths[0]}")
        dtype = torch.float32 if self.weight.dtype in (torch.bfloat16, torch.float16) else self.weight.dtype
        dtype = dtype if dtype.is_floating_point else torch.float32
        self.lora_A[name] = Factor(first.a.to(device, dtype).clone())
        self.lora_B[name] = Factor(first.b.to(device, dtype).clone())
        self.lora_dropout[name] = SampleDropout(config.lora_dropout)
        self.scaling[name], self.lora_alpha[name] = scaling, config.alpha(paths)

    def _take(self, name: str, init: str, rank: int, scaling: float) -> First:
        if isinstance(self.base_layer, PackedLinear):
            raise UnsupportedError(
                "init_lora_weights", "takes a part out of the weights, and those in blocks would be rounded again",
                found=repr(init), remedy="Load the base without quantize=.",
            )  # fmt: skip
        if self.taken:
            raise UnsupportedError("init_lora_weights", "one adapter of a model may begin with a part of its weights")
        with torch.no_grad():
            weight = self.weight.detach().float()
            first = take(init, rank, weight, scaling)
            left = (weight - scaling * first.b @ first.a).to(self.weight.dtype)
            self.base_layer.weight = nn.Parameter(left, requires_grad=False)
        self.taken[name] = first
        return first

    def _missing(self, acting: Sequence[str]) -> Tensor | None:
        """What the base's weight lacks for those adapters that do not act, float32."""
        out = None
        for name, first in self.taken.items():
            if name not in acting:
                lacking = self.scaling[name] * first.b.to(self.weight.device) @ first.a.to(self.weight.device)
                out = lacking if out is None else out + lacking
        return out

    def give_back(self) -> None:
        """Puts into the base's weight what adapters took out of it, up to its rounding."""
        lacking = self._missing(())
        if lacking is not None:
            whole = (self.weight.detach().float() + lacking).to(self.weight.dtype)
            self.base_layer.weight = nn.Parameter(whole, requires_grad=False)
            self.taken = {}

    def add_magnitude(self, name: str) -> None:
        """DoRA's magnitudes, at first the rows' own."""
        self.lora_magnitude_vector[name] = Factor(self._lengths(name).to(self.a(name).dtype))

    def narrow(self, name: str) -> None:
        """An adapter in the dtype of the base's weight, where that is of floats."""
        if not self.weight.is_floating_point():
            return
        for owner, weight in self.weights():
            if owner == name:
                weight.data = weight.data.to(self.weight.dtype)

    def remove(self, name: str) -> None:
        if name in self.taken:
            self.give_back()
        for each in (self.lora_A, self.lora_B, self.lora_magnitude_vector, self.lora_dropout):
            if name in each:
                del each[name]
        self.scaling.pop(name, None)
        self.lora_alpha.pop(name, None)

    def change(self, name: str) -> Tensor:
        """s B A, float32."""
        out: Tensor = (self.b(name).float() @ self.a(name).float()) * self.scaling[name]
        return out

    def _lengths(self, name: str) -> Tensor:
        with torch.no_grad():  # taken as a constant (Liu et al. 2024, section 4.3)
            norms: Tensor = (self.weight.float() + self.change(name)).norm(dim=self.along)
        return norms

    def forward(self, x: Tensor) -> Tensor:
        change = self._change_of_one(x)
        if change is not None:
            name, low = change
            dropout: Any = self.lora_dropout[name]
            dropped = dropout(x) if dropout.training and dropout.p > 0 else None
            return changed_linear(x, dropped, self.base_layer.weight, self.base_layer.bias, low)
        out: Tensor = self.base_layer(x)
        routing = None if self.switch.is_disabled or self.switch.merged else self.switch.routing
        if self.taken and not self.switch.merged:
            out = self._with_taken(x, out, routing)
        if routing is not None:
            for name in dict.fromkeys(routing.adapters):
                if self.knows(name):
                    places = routing.places(name, x)
                    out = out.index_add(0, places, self._added(name, x[places], out[places]))
            return out
        base = out
        for name in self.switch.acting:
            if self.knows(name):
                out = out + self._added(name, x, base)
        return out

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """The layer's output for silu(gate) * up, which is not kept for the backward pass where that can be helped."""
        change = None if has_listeners(self) else self._change_of_one(gate)
        dropout: Any = None if change is None else self.lora_dropout[change[0]]
        if change is not None and (not dropout.training or dropout.p == 0):
            return gated_product(gate, up, self.base_layer.weight, self.base_layer.bias, change[1])
        out: Tensor = self(gated_silu(gate, up))
        return out

    def _change_of_one(self, x: Tensor) -> tuple[str, LowRank] | None:
        """Name and change of the one plain adapter that acts here, if base and adapter are one product's to make."""
        switch, names = self.switch, [name for name in self.switch.acting if self.knows(name)]
        if switch.routing is not None or self.taken or len(names) != 1 or names[0] in self.lora_magnitude_vector:
            return None
        name, is_plainly = names[0], is_plain(self.base_layer) and not self.weight.requires_grad
        if not is_plainly or x.ndim < 2 or x.dtype != self.a(name).dtype or torch.is_autocast_enabled(x.device.type):
            return None
        return name, LowRank(self.a(name), self.b(name), self.scaling[name])

    def _with_taken(self, x: Tensor, out: Tensor, routing: Routing | None) -> Tensor:
        """The base's output by its whole weight, where the adapter that took a part of it does not act."""
        for name, first in self.taken.items():
            if routing is None and name in self.switch.acting:
                continue
            a, b = first.a.to(x.device), first.b.to(x.device)
            back = F.linear(F.linear(x.to(a.dtype), a), b).to(out.dtype) * self.scaling[name]
            if routing is not None and name in routing.adapters:
                places = routing.places(name, x)
                back = back.index_fill(0, places, 0.0)
            out = out + back
        return out

    def _added(self, name: str, x: Tensor, base: Tensor) -> Tensor:
        a, b, scaling = self.a(name), self.b(name), self.scaling[name]
        dropout: Any = self.lora_dropout[name]
        dropped = dropout(x.to(a.dtype))
        low: Tensor = F.linear(F.linear(dropped, a) * scaling, b)
        magnitude = self.magnitude(name)
        if magnitude is None:
            return low.to(base.dtype)
        share = magnitude / self._lengths(name).to(a.dtype)
        if dropout.training and dropout.p > 0:
            plain = F.linear(dropped, self.weight.to(a.dtype))
        else:
            plain = (base if self.bias is None else base - self.bias).to(a.dtype)
        changed: Tensor = ((share - 1) * plain + share * low).to(base.dtype)
        return changed

    def merged_weight(self, names: Sequence[str]) -> Tensor:
        """The base's weight with these adapters in it, in its dtype."""
        weight = self.weight.detach().float()
        lacking = self._missing(names)
        weight = weight if lacking is None else weight + lacking
        for name in names:
            if not self.knows(name):
                continue
            changed = weight + self.change(name)
            magnitude = self.magnitude(name)
            if magnitude is not None:
                share = magnitude.float() / changed.norm(dim=self.along)
                changed = changed * share.unsqueeze(self.along)
            weight = changed
        return weight.to(self.weight.dtype)

    def merge(self, names: Sequence[str], is_checked: bool) -> None:
        if isinstance(self.base_layer, PackedLinear):
            raise UnsupportedError(
                "merge",
                f"weights kept in {self.base_layer.kind} blocks would be rounded again",
                remedy="Load the base without quantize=, put the adapter on it, and merge there.",
            )
        with torch.no_grad():
            self.put(self.merged_weight(names), is_checked)


class OwnCopy(nn.Module):
    """A module of which each adapter that saves it has a copy of its own, trained whole."""

    def __init__(self, original: nn.Module, switch: Switch) -> None:
        super().__init__()
        self.original_module = original
        self.switch = switch
        self.modules_to_save = nn.ModuleDict()

    def add(self, name: str) -> None:
        import copy

        made = copy.deepcopy(self.original_module)
        for parameter_name, parameter in made.named_parameters():
            parameter.data = dict(self.original_module.named_parameters())[parameter_name].detach().clone()
        self.modules_to_save[name] = made

    def remove(self, name: str) -> None:
        if name in self.modules_to_save:
            del self.modules_to_save[name]

    @property
    def current(self) -> nn.Module:
        """The active adapter's copy, else the base's module."""
        if not self.switch.is_disabled:
            for name in reversed(self.switch.active):
                if name in self.modules_to_save:
                    return self.modules_to_save[name]
        return self.original_module

    def __getattr__(self, name: str) -> Any:
        """What is asked of the module in whose place this is, as its weight, is the acting one's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "modules_to_save" not in self.__dict__["_modules"]:
                raise
            return getattr(self.current, name)

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        routing = None if self.switch.is_disabled else self.switch.routing
        if routing is None or not any(name in self.modules_to_save for name in routing.adapters):
            return self.current(*inputs, **keywords) if routing is None else self.original_module(*inputs, **keywords)
        if len(inputs) != 1 or keywords:
            raise UnsupportedError("adapter_names", "a module saved whole must take one tensor to tell rows apart")
        x = inputs[0]
        out: Tensor = self.original_module(x)
        for name in dict.fromkeys(routing.adapters):
            if name in self.modules_to_save:
                places = routing.places(name, x)
                out = out.index_copy(0, places, self.modules_to_save[name](x[places]))
        return out
