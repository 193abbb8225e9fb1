"""Where a model's parts live: `device_map` and `dtype` as users spell them -> torch devices and dtypes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from martlet.errors import ArgumentError, DeviceError

DeviceMap = Mapping[str, torch.device]


def find_device(spelling: Any) -> torch.device:
    """A device that is there: "cpu", "cuda", "cuda:1", a CUDA index, "meta", "auto", or a torch.device."""
    if spelling == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(spelling, int) and not isinstance(spelling, bool):
        spelling = f"cuda:{spelling}"
    try:
        device = torch.device(spelling)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(
            "device", "must be a name such as cpu, cuda, cuda:1, auto or meta", found=repr(spelling)
        ) from error
    if device.type not in ("cpu", "meta"):
        there = devices_there()
        name = f"{device.type}:{device.index or 0}"
        if name not in there:
            raise DeviceError(
                "device", "must be on this machine", found=repr(str(spelling)), remedy=f"There is: {', '.join(there)}."
            )
    return device


def devices_there() -> list[str]:
    """Devices of this machine, by torch's names."""
    found = ["cpu"]
    found += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps:0")
    return found


def read_device_map(device_map: Any, module_names: list[str]) -> DeviceMap:
    """Module prefix -> device; "" is the whole model. A dict must name modules there are, and cover all of them."""
    if device_map is None:
        return {"": torch.device("cpu")}
    if device_map in ("balanced", "balanced_low_0", "sequential"):
        device_map = "auto"
    if not isinstance(device_map, Mapping):
        return {"": find_device(device_map)}
    placed = {str(prefix): find_device(device) for prefix, device in device_map.items()}
    for prefix in placed:
        if prefix and not any(name == prefix or name.startswith(prefix + ".") for name in module_names):
            raise ArgumentError("device_map", "every key must be a module's name or prefix", found=repr(prefix))
    for name in module_names:
        device_of(name, placed)
    return placed


def device_of(name: str, placed: DeviceMap) -> torch.device:
    """The device of a tensor or module, by the longest prefix that covers it."""
    covering = [prefix for prefix in placed if not prefix or name == prefix or name.startswith(prefix + ".")]
    if not covering:
        raise ArgumentError("device_map", f"{name} must be covered by a key", found=f"keys {', '.join(placed)}")
    return placed[max(covering, key=len)]


DTYPES = {
    "float32": torch.float32,
    "float": torch.float32,
    "fp32": torch.float32,
    "float16": torch.float16,
    "half": torch.float16,
    "fp16": torch.float16,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float64": torch.float64,
}
STORED = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def find_dtype(spelling: Any) -> torch.dtype:
    """A floating dtype by name ("bfloat16", "torch.float16", "fp32") or as itself."""
    if isinstance(spelling, torch.dtype):
        found: torch.dtype | None = spelling
    else:
        found = DTYPES.get(str(spelling).removeprefix("torch."))
    if found is None or not found.is_floating_point:
        raise ArgumentError("dtype", f"must be 'auto' or one of {', '.join(DTYPES)}", found=repr(spelling))
    return found
