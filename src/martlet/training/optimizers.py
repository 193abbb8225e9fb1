"""Optimizers by Hugging Face's names, from torch and well-kept libraries; weights narrower than float32 among them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from martlet.errors import ArgumentError, MissingDependencyError
from martlet.nn.draws import mix
from martlet.training.adafactor import Adafactor
from martlet.training.arguments import TrainingArguments

Build = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]

NOT_DECAYING = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")
NARROW = (torch.bfloat16, torch.float16)
NOISE_PART = 1 << 20  # numbers rounded at a time


def decay_parameter_names(model: nn.Module) -> list[str]:
    """Names of the weights that decay: all but biases and those of norms, by the names they have in Hugging Face's."""
    norms = {path for path, module in model.named_modules() if "norm" in type(module).__name__.lower()}
    return [
        name
        for name, _ in model.named_parameters()
        if name.rpartition(".")[0] not in norms and not NOT_DECAYING.search(name.lower())
    ]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable weights in two groups: those that decay, and norms and biases, which do not."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise ArgumentError("model", "must have a weight that requires a gradient", found="every one frozen")
    decaying = decay_parameter_names(model)
    named = [(name in decaying, each) for name, each in model.named_parameters() if each.requires_grad]
    groups = [
        {"params": [each for decays, each in named if decays], "weight_decay": weight_decay},
        {"params": [each for decays, each in named if not decays], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def builder(args: TrainingArguments) -> Build:
    """What makes the optimizer `args.optim` from parameter groups."""
    adam = {"lr": args.learning_rate, "betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
    options = _options(args.optim_args)
    match args.optim:
        case "adamw_torch_fused":
            return lambda groups: torch.optim.AdamW(groups, **{**adam, "fused": True, **options})
        case "adamw_torch":
            return lambda groups: torch.optim.AdamW(groups, **{**adam, **options})
        case "adafactor":
            return lambda groups: Adafactor(groups, **{"lr": args.learning_rate, **options})
        case "sgd" | "adagrad" | "rmsprop":
            kind: Any = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad, "rmsprop": torch.optim.RMSprop}
            return lambda groups: kind[args.optim](groups, **{"lr": args.learning_rate, **options})
        case "adamw_8bit" | "adamw_bnb_8bit":
            module = _library("bitsandbytes.optim", "bitsandbytes")
            return lambda groups: module.AdamW8bit(groups, **{**adam, **options})
        case "lion_8bit":
            module = _library("bitsandbytes.optim", "bitsandbytes")
            return lambda groups: module.Lion8bit(groups, **{"lr": args.learning_rate, **options})
        case _:
            module = _library("torchao.optim", "torchao")
            name = "AdamW8bit" if args.optim == "adamw_torch_8bit" else "AdamW4bit"
            return lambda groups: getattr(module, name)(groups, **{**adam, **options})


def _library(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as problem:
        raise MissingDependencyError("optim", f"needs {package}", remedy=f"pip install {package}") from problem


def _options(text: str | None) -> dict[str, Any]:
    """`optim_args`: "name=value,name=value", numbers and truths read as such."""
    out: dict[str, Any] = {}
    for pair in (text or "").replace(" ", "").split(","):
        if not pair:
            continue
        name, is_pair, value = pair.partition("=")
        if not is_pair:
            raise ArgumentError("optim_args", "must be name=value pairs with commas between", found=repr(text))
        out[name] = {"True": True, "False": False, "None": None}.get(value, _number(value))
    return out


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


class NarrowOptimizer(torch.optim.Optimizer):
    """Steps bfloat16 weights in float32: by float32 masters, or by rounding up or down with the right chance.

    With bfloat16's 8 bits most updates of a fine-tune are smaller than half a unit in the last place, and rounding to
    nearest loses them (Gupta et al. 2015). The inner optimizer sees one float32 weight at a time, so a step needs
    room for one more than its state.
    """

    def __init__(self, groups: list[dict[str, Any]], build: Build, update: str, seed: int) -> None:
        super().__init__(groups, {})
        self.keeps_masters, self.seed, self.steps = update == "master", seed, 0
        self.wide: list[nn.Parameter] = []
        inner_groups = []
        for group in self.param_groups:
            wide = [nn.Parameter(self._wide_of(each)) for each in group["params"]]
            self.wide += wide
            inner_groups.append({**{k: v for k, v in group.items() if k != "params"}, "params": wide})
        self.inner = build(inner_groups)
        self.defaults = self.inner.defaults
        for own, inner in zip(self.param_groups, self.inner.param_groups, strict=True):
            own.update({key: value for key, value in inner.items() if key != "params"})

    def _wide_of(self, parameter: Tensor) -> Tensor:
        if self.keeps_masters or parameter.dtype == torch.float32:
            return parameter.detach().float()  # of float32 weights this is the weight itself
        return torch.empty(0, dtype=torch.float32, device=parameter.device)

    @property
    def narrow(self) -> list[nn.Parameter]:
        """The model's own weights, in the order of `wide`."""
        return [each for group in self.param_groups for each in group["params"]]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of all weights that have a gradient."""
        if closure is not None:
            raise ArgumentError("closure", "cannot be used with weights narrower than float32")
        self._tell_inner()
        # room for all weights in turn: taken one by one it would lie among the state that stays, and leave holes there
        size = max((each.numel() for each in self.narrow if each.grad is not None), default=0)
        rooms = [torch.empty(size, device=self.narrow[0].device) for _ in range(1 if self.keeps_masters else 2)]
        for index, (weight, wide) in enumerate(zip(self.narrow, self.wide, strict=True)):
            if weight.grad is None:
                continue
            is_held = self.keeps_masters or weight.dtype == torch.float32
            if not is_held:
                wide.data = _laid_in(rooms[1], weight)
            wide.grad = weight.grad if weight.grad.dtype == torch.float32 else _laid_in(rooms[0], weight.grad)
            self.inner.step()
            wide.grad = None
            if self.keeps_masters:
                weight.copy_(wide)
            elif weight.dtype != torch.float32:
                _round_by_chance(weight, wide.data, mix(self.seed, self.steps, index))
                wide.data = torch.empty(0, dtype=torch.float32, device=weight.device)
        self.steps += 1

    def _tell_inner(self) -> None:
        """Schedules set the rates of this optimizer's groups; the inner one's follow."""
        for own, inner in zip(self.param_groups, self.inner.param_groups, strict=True):
            inner.update({key: value for key, value in own.items() if key != "params"})

    def state_dict(self) -> dict[str, Any]:
        self._tell_inner()
        masters = [each.detach() for each in self.wide] if self.keeps_masters else []
        return {"inner": self.inner.state_dict(), "masters": masters, "steps": self.steps}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        empty = [(wide, wide.data) for wide in self.wide]
        if not self.keeps_masters:  # torch shapes some state after the weight
            for wide, weight in zip(self.wide, self.narrow, strict=True):
                wide.data = weight.detach().float()
        self.inner.load_state_dict(state["inner"])
        if not self.keeps_masters:
            for wide, data in empty:
                wide.data = data
        for wide, master in zip(self.wide, state["masters"], strict=bool(state["masters"])):
            wide.copy_(master)
        for own, inner in zip(self.param_groups, self.inner.param_groups, strict=True):
            own.update({key: value for key, value in inner.items() if key != "params"})
        self.steps = state["steps"]


def _laid_in(room: Tensor, value: Tensor) -> Tensor:
    """`value` as float32 in the beginning of `room`; by itself where it is one of several devices' or of shards."""
    if type(value) not in (Tensor, nn.Parameter) or value.device != room.device or not value.is_contiguous():
        return value.detach().float()
    return room[: value.numel()].view(value.shape).copy_(value.detach())


def _round_by_chance(out: Tensor, wide: Tensor, seed: int) -> None:
    """bfloat16 is the upper half of a float32: adding a random lower half before cutting rounds without bias."""
    generator = torch.Generator(device="cpu").manual_seed(seed >> 1)
    if type(out) not in (Tensor, nn.Parameter) or not out.is_contiguous():
        noise = torch.randint(0, 1 << 16, wide.shape, generator=generator, dtype=torch.int32).to(wide.device)
        out.copy_(_cut(wide.contiguous(), noise))
        return
    flat = wide.reshape(-1)
    for begin in range(0, len(flat), NOISE_PART):
        part = flat[begin : begin + NOISE_PART]
        noise = torch.randint(0, 1 << 16, part.shape, generator=generator, dtype=torch.int32).to(wide.device)
        out.view(-1)[begin : begin + NOISE_PART] = _cut(part, noise)


def _cut(wide: Tensor, noise: Tensor) -> Tensor:
    return noise.add_(wide.view(torch.int32)).bitwise_and_(-65536).view(torch.float32)


def build_optimizer(args: TrainingArguments, groups: list[dict[str, Any]], build: Build) -> torch.optim.Optimizer:
    """The optimizer for these weights: narrow ones are stepped in float32 unless `bf16_update` is "plain"."""
    narrow = any(each.dtype in NARROW for group in groups for each in group["params"])
    if not narrow or args.bf16_update == "plain":
        return build(groups)
    dtypes = {each.dtype for group in groups for each in group["params"]}
    if args.bf16_update == "stochastic" and torch.float16 in dtypes:
        raise ArgumentError("bf16_update", "'stochastic' rounds bfloat16 only", found="float16 weights")
    return NarrowOptimizer(groups, build, args.bf16_update, args.seed)
