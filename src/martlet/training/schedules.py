"""Learning-rate schedules under Hugging Face's names: each a factor as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from martlet.errors import ArgumentError

Factor = Callable[[int], float]


def get_scheduler(
    name: str,
    optimizer: torch.optim.Optimizer,
    num_warmup_steps: int | None = None,
    num_training_steps: int | None = None,
    scheduler_specific_kwargs: dict[str, Any] | None = None,
) -> LambdaLR | ReduceLROnPlateau:
    """The schedule of that name, for loops of one's own.

    ArgumentError for a name or an option that there is not, and for steps that the schedule needs and does not get.
    """
    name = str(getattr(name, "value", name))
    if name != "reduce_lr_on_plateau" and name not in _FACTORS:
        raise ArgumentError("get_scheduler", f"must name one of {', '.join(_FACTORS)}", found=repr(name))
    if num_warmup_steps is None and name not in ("constant", "reduce_lr_on_plateau"):
        raise ArgumentError("num_warmup_steps", f"is needed for {name!r}", found="None")
    if num_training_steps is None and name not in _ENDLESS:
        raise ArgumentError("num_training_steps", f"is needed for {name!r}", found="None")
    options = dict(scheduler_specific_kwargs or {})
    return build_schedule(name, optimizer, num_warmup_steps or 0, num_training_steps or 0, options)


def get_constant_schedule(optimizer: torch.optim.Optimizer, last_epoch: int = -1) -> Any:
    """The rate as it is."""
    return build_schedule("constant", optimizer, 0, 0, {}, last_epoch)


def get_constant_schedule_with_warmup(
    optimizer: torch.optim.Optimizer, num_warmup_steps: int, last_epoch: int = -1
) -> Any:
    """The rate as it is, after `num_warmup_steps` of rising to it."""
    return build_schedule("constant_with_warmup", optimizer, num_warmup_steps, 0, {}, last_epoch)


def get_linear_schedule_with_warmup(
    optimizer: torch.optim.Optimizer, num_warmup_steps: int, num_training_steps: int, last_epoch: int = -1
) -> Any:
    """Rising to the rate, then falling to 0 in a line."""
    return build_schedule("linear", optimizer, num_warmup_steps, num_training_steps, {}, last_epoch)


def get_cosine_schedule_with_warmup(
    optimizer: torch.optim.Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
) -> Any:
    """Rising to the rate, then `num_cycles` waves of a cosine: the default falls to 0 once."""
    options = {"num_cycles": num_cycles}
    return build_schedule("cosine", optimizer, num_warmup_steps, num_training_steps, options, last_epoch)


def get_cosine_with_hard_restarts_schedule_with_warmup(
    optimizer: torch.optim.Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: int = 1,
    last_epoch: int = -1,
) -> Any:
    """Rising to the rate, then `num_cycles` falls to 0, each from the top."""
    options = {"num_cycles": num_cycles}
    return build_schedule("cosine_with_restarts", optimizer, num_warmup_steps, num_training_steps, options, last_epoch)


def get_polynomial_decay_schedule_with_warmup(
    optimizer: torch.optim.Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    lr_end: float = 1e-7,
    power: float = 1.0,
    last_epoch: int = -1,
) -> Any:
    """Rising to the rate, then falling to `lr_end` by a power of what is left."""
    options = {"lr_end": lr_end, "power": power}
    return build_schedule("polynomial", optimizer, num_warmup_steps, num_training_steps, options, last_epoch)


def get_inverse_sqrt_schedule(
    optimizer: torch.optim.Optimizer, num_warmup_steps: int, timescale: int | None = None, last_epoch: int = -1
) -> Any:
    """Rising to the rate, then falling by the root of the steps (Zhai et al. 2021)."""
    return build_schedule("inverse_sqrt", optimizer, num_warmup_steps, 0, {"timescale": timescale}, last_epoch)


def get_cosine_with_min_lr_schedule_with_warmup(
    optimizer: torch.optim.Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> Any:
    """Rising to the rate, then a cosine down to `min_lr`, or to `min_lr_rate` of the rate: exactly one of them."""
    options = {"num_cycles": num_cycles, "min_lr": min_lr, "min_lr_rate": min_lr_rate}
    return build_schedule("cosine_with_min_lr", optimizer, num_warmup_steps, num_training_steps, options, last_epoch)


def get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
    optimizer: torch.optim.Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
    warmup_lr_rate: float | None = None,
) -> Any:
    """The same, the first step at `warmup_lr_rate` of the rate; None: at the share of the warm-up that a step is."""
    options = {"num_cycles": num_cycles, "min_lr": min_lr, "min_lr_rate": min_lr_rate, "warmup_lr_rate": warmup_lr_rate}
    name = "cosine_warmup_with_min_lr"
    return build_schedule(name, optimizer, num_warmup_steps, num_training_steps, options, last_epoch)


def get_wsd_schedule(
    optimizer: torch.optim.Optimizer,
    num_warmup_steps: int,
    num_decay_steps: int,
    num_training_steps: int | None = None,
    num_stable_steps: int | None = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
) -> Any:
    """Rising to the rate, staying there for `num_stable_steps`, or what `num_training_steps` leaves, then falling."""
    if num_training_steps is None and num_stable_steps is None:
        raise ArgumentError("get_wsd_schedule", "needs num_training_steps or num_stable_steps")
    options = {
        "num_decay_steps": num_decay_steps, "num_stable_steps": num_stable_steps, "warmup_type": warmup_type,
        "decay_type": decay_type, "min_lr_ratio": min_lr_ratio, "num_cycles": num_cycles,
    }  # fmt: skip
    total = num_training_steps if num_training_steps is not None else 0
    return build_schedule("warmup_stable_decay", optimizer, num_warmup_steps, total, options, last_epoch)


def get_reduce_on_plateau_schedule(optimizer: torch.optim.Optimizer, **kwargs: Any) -> ReduceLROnPlateau:
    """torch's ReduceLROnPlateau, with its options: the rate falls when a metric no longer gets better."""
    return build_schedule("reduce_lr_on_plateau", optimizer, 0, 0, kwargs)  # type: ignore[return-value]


def build_schedule(
    name: str,
    optimizer: torch.optim.Optimizer,
    warmup: int,
    total: int,
    options: dict[str, Any],
    last_epoch: int = -1,
) -> LambdaLR | ReduceLROnPlateau:
    """The schedule `name` over `total` steps, the first `warmup` of them rising. ArgumentError for unknown options."""
    if name == "reduce_lr_on_plateau":
        try:
            return ReduceLROnPlateau(optimizer, **options)
        except TypeError as problem:
            raise ArgumentError("lr_scheduler_kwargs", "does not fit ReduceLROnPlateau", found=str(problem)) from None
    peak = float(optimizer.defaults["lr"])
    options = dict(options)
    factor = _FACTORS[name](warmup, total, peak, options)
    if options:
        raise ArgumentError("lr_scheduler_kwargs", f"the schedule {name!r} does not take it", found=sorted(options))
    return LambdaLR(optimizer, factor, last_epoch)


def _warmed(warmup: int, after: Factor) -> Factor:
    return lambda step: step / max(1, warmup) if step < warmup else after(step)


def _constant(warmup: int, total: int, peak: float, options: dict[str, Any]) -> Factor:
    return lambda step: 1.0


def _constant_with_warmup(warmup: int, total: int, peak: float, options: dict[str, Any]) -> Factor:
    return _warmed(warmup, lambda step: 1.0)


def _linear(warmup: int, total: int, peak: float, options: dict[str, Any]) -> Factor:
    return _warmed(warmup, lambda step: max(0.0, (total - step) / max(1, total - warmup)))


def _progress(step: int, warmup: int, total: int) -> float:
    return (step - warmup) / max(1, total - warmup)


def _cosine(warmup: int, total: int, peak: float, options: dict[str, Any]) -> Factor:
    cycles = float(options.pop("num_cycles", 0.5))
    return _warmed(
        warmup,
        lambda step: max(0.0, 0.5 * (1.0 + math.cos(math.pi * cycles * 2.0 * _progress(step, warmup, total)))),
    )


def _restarts(warmup: int, total: int, peak: float, options: dict[str, Any]) -> Factor:
    cycles = float(options.pop("num_cycles", 1))

    def after(step: int) -> float:
        progress = _progress(step, warmup, total)
        return 0.0 if progress >= 1 else max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((cycles * progress) % 1.0))))

    return _warmed(warmup, after)


def _polynomial(warmup: int, total: int, peak: float, options: dict[str, Any]) -> Factor:
    end, power = float(options.pop("lr_end", 1e-7)), float(options.pop("power", 1.0))
    if peak <= end:
        raise ArgumentError("lr_end", f"must be below learning_rate ({peak})", found=end)

    def after(step: int) -> float:
        if step > total:
            return end / peak
        left = 1 - (step - warmup) / max(1, total - warmup)
        return float(((peak - end) * left**power + end) / peak)

    return _warmed(warmup, after)


def _inverse_sqrt(warmup: int, total: int, peak: float, options: dict[str, Any]) -> Factor:
    timescale = options.pop("timescale", None) or warmup or 10_000
    return _warmed(warmup, lambda step: 1.0 / math.sqrt((step + timescale - warmup) / timescale))


def _least(peak: float, options: dict[str, Any]) -> float:
    least, rate = options.pop("min_lr", None), options.pop("min_lr_rate", None)
    if (least is None) == (rate is None):
        raise ArgumentError("lr_scheduler_kwargs", "needs exactly one of min_lr and min_lr_rate")
    return float(rate) if rate is not None else float(least) / peak


def _cosine_with_min_lr(warmup: int, total: int, peak: float, options: dict[str, Any]) -> Factor:
    cycles, least = float(options.pop("num_cycles", 0.5)), _least(peak, options)

    def after(step: int) -> float:
        wave = 0.5 * (1.0 + math.cos(math.pi * cycles * 2.0 * _progress(step, warmup, total)))
        return max(0.0, wave * (1 - least) + least)

    return _warmed(warmup, after)


def _cosine_warmup_with_min_lr(warmup: int, total: int, peak: float, options: dict[str, Any]) -> Factor:
    cycles, least = float(options.pop("num_cycles", 0.5)), _least(peak, options)
    begin = options.pop("warmup_lr_rate", None)

    def factor(step: int) -> float:
        if step < warmup:
            if begin is None:
                return (step + 1.0) / max(1.0, warmup)
            return float(begin) + (1.0 - float(begin)) * step / max(1, warmup - 1)
        progress = (step - warmup + 1.0) / max(1.0, total - warmup)
        wave = 0.5 * (1.0 + math.cos(math.pi * cycles * 2.0 * progress))
        return max(0.0, wave * (1 - least) + least)

    return factor


def _stable(warmup: int, total: int, peak: float, options: dict[str, Any]) -> Factor:
    """Rise, stay, fall (Hu et al. 2024): `num_decay_steps` at the end, shapes "linear", "cosine" or "1-sqrt"."""
    decay = int(options.pop("num_decay_steps", 0))
    stay = options.pop("num_stable_steps", None)
    least, cycles = float(options.pop("min_lr_ratio", 0.0)), float(options.pop("num_cycles", 0.5))
    rising, falling = options.pop("warmup_type", "linear"), options.pop("decay_type", "cosine")
    if decay < 1:
        raise ArgumentError("lr_scheduler_kwargs", "warmup_stable_decay needs num_decay_steps", found=decay or "none")
    for shape in (rising, falling):
        if shape not in ("linear", "cosine", "1-sqrt"):
            raise ArgumentError("lr_scheduler_kwargs", "a shape must be linear, cosine or 1-sqrt", found=repr(shape))
    stay = total - warmup - decay if stay is None else int(stay)

    def factor(step: int) -> float:
        if step < warmup:
            return max(0.0, _shape(rising, step / max(1, warmup), cycles, up=True) * (1 - least) + least)
        if step < warmup + stay:
            return 1.0
        if step < warmup + stay + decay:
            gone = (step - warmup - stay) / max(1, decay)
            return max(0.0, _shape(falling, gone, cycles, up=False) * (1 - least) + least)
        return least

    return factor


def _shape(shape: str, progress: float, cycles: float, *, up: bool) -> float:
    if shape == "linear":
        return progress if up else 1.0 - progress
    if shape == "cosine":
        wave = 0.5 * (1.0 - math.cos(math.pi * progress)) if up else 0.0
        return wave if up else 0.5 * (1.0 + math.cos(math.pi * cycles * 2.0 * progress))
    return 1.0 - math.sqrt(1.0 - progress) if up else 1.0 - math.sqrt(progress)


_FACTORS: dict[str, Callable[[int, int, float, dict[str, Any]], Factor]] = {
    "constant": _constant,
    "constant_with_warmup": _constant_with_warmup,
    "linear": _linear,
    "cosine": _cosine,
    "cosine_with_restarts": _restarts,
    "polynomial": _polynomial,
    "inverse_sqrt": _inverse_sqrt,
    "cosine_with_min_lr": _cosine_with_min_lr,
    "cosine_warmup_with_min_lr": _cosine_warmup_with_min_lr,
    "warmup_stable_decay": _stable,
}
_ENDLESS = ("constant", "constant_with_warmup", "inverse_sqrt", "reduce_lr_on_plateau")
