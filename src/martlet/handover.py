"""A torch model's weights in the native engine, so that it generates there: when it may, and when they are repacked.

The engine gets the parameters' own bytes, or the packed blocks of the file they were unpacked from, while both say the
same.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from martlet.arch import Arch, tensors
from martlet.engine import EngineModel, build_engine_model, check_options, is_built
from martlet.engine.reasons import ASKED
from martlet.errors import UnsupportedError
from martlet.formats.tensors import TensorInfo, TensorSource
from martlet.nn.decoder import CausalLM
from martlet.nn.devices import STORED
from martlet.weights import Piece

WORDS = {dtype: word for word, dtype in STORED.items()}
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
NUM_SAMPLES = 16  # numbers of a parameter that are looked at for changes that torch does not count
Stamp = tuple[tuple[int, int, bytes], ...]


class ParameterSource(TensorSource):
    """A module's parameters as a checkpoint under our names: bytes are views, nothing is copied."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._parameters, self.paths, self.metadata = dict(parameters), (), {}

    def names(self) -> tuple[str, ...]:
        return tuple(self._parameters)

    def info(self, name: str) -> TensorInfo:
        tensor = self._parameters[name]
        return TensorInfo(name, WORDS[tensor.dtype], tuple(tensor.shape), tensor.nbytes)

    def raw(self, name: str) -> NDArray[np.uint8]:
        tensor = self._parameters[name].detach().contiguous()
        return tensor.view(-1).view(torch.uint8).numpy()

    def close(self) -> None:
        self._parameters.clear()


class Handover:
    """The engine of one torch model. `packed` are the blocks of its file, where parameters are unpacked from such;
    `options` the engine's OPTIONS."""

    def __init__(
        self,
        packed: tuple[TensorSource, Mapping[str, Piece]] | None = None,
        *,
        wanted: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._packed, self._wanted, self.options = packed, wanted, check_options(options or {})
        self._files = () if packed is None else tuple(map(_file_stamp, packed[0].paths))
        self._loaded: Stamp | None = None  # of the parameters as the file says them
        self._engine: tuple[Stamp, EngineModel | str] | None = None  # or why there is none
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> Handover:
        return Handover(wanted=self._wanted, options=self.options)

    def __reduce__(self) -> Any:
        return _rebuild, (self._wanted, self.options)

    def mark_loaded(self, model: CausalLM) -> None:
        """The parameters are as the file says."""
        if self._packed is not None:
            self._loaded = stamp(model)

    def engine(self, model: CausalLM, *, traces: bool = False) -> EngineModel | str:
        """The engine with the weights that the model has now, or why torch has to generate. Packs where it must."""
        if not self._wanted:
            return ASKED
        reason = _module_reason(model, traces)
        if reason:
            return reason
        with self._lock:
            now = stamp(model)
            has_blocks = self._packed is not None and now == self._loaded
            if not has_blocks and (reason := _dtype_reason(model)):
                self._engine = None
                return reason
            if self._engine is None or self._engine[0] != now:
                self._engine = None  # before the new weights are packed, the memory of the old ones is free
                self._engine = now, self._build(model, has_blocks)
            return self._engine[1]

    def _build(self, model: CausalLM, has_blocks: bool) -> EngineModel | str:
        try:
            if has_blocks:
                assert self._packed is not None
                if tuple(map(_file_stamp, self._packed[0].paths)) != self._files:
                    return "the file was changed since it was loaded"
                return build_engine_model(model.arch, *self._packed, **self.options)
            named = dict(model.named_parameters(remove_duplicate=False))
            source = ParameterSource({name: named[name] for name in tensors(model.arch)})
            pieces = {name: Piece(name) for name in source.names()}
            return build_engine_model(model.arch, source, pieces, **self.options)
        except UnsupportedError as error:
            return str(error)


def stamp(model: nn.Module) -> Stamp:
    """What tells whether weights have changed: where each lies, torch's count of its changes, a few of its numbers.

    The numbers are for changes through `.data`, which torch does not count.
    """
    return tuple(_parameter_stamp(parameter) for parameter in model.parameters())


def _parameter_stamp(parameter: Tensor) -> tuple[int, int, bytes]:
    count = 0 if parameter.is_inference() else parameter._version
    flat = parameter.detach().reshape(-1)
    samples = flat[:: max(1, flat.numel() // NUM_SAMPLES)][:NUM_SAMPLES].contiguous()
    return parameter.data_ptr(), count, samples.view(torch.uint8).numpy().tobytes()


def _module_reason(model: CausalLM, traces: bool) -> str:
    """What of the module the engine does not do, or ""."""
    if traces:
        return "hidden states or attentions are asked for"
    places = sorted({str(parameter.device) for parameter in model.parameters()} - {"cpu"})
    if places:
        return f"weights are on {', '.join(places)}"
    if not is_built():
        return "the engine was not compiled when martlet was installed"
    expected = dict(_expected_modules(model.arch))
    for name, module in model.named_modules():
        if name and type(module) is not expected.get(name):
            return f"module {name} is a {type(module).__name__}"
        if "forward" in module.__dict__:
            return f"forward of {name or 'the model'} was replaced"
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{name or 'the model'} has hooks"
    if type(model).forward is not CausalLM.forward:
        return f"{type(model).__name__} has a forward of its own"
    return ""


@lru_cache(maxsize=8)
def _expected_modules(arch: Arch) -> tuple[tuple[str, type], ...]:
    with torch.device("meta"):
        empty = CausalLM(arch)
    return tuple((name, type(module)) for name, module in empty.named_modules())


def _dtype_reason(model: CausalLM) -> str:
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.ndim > 1}
    others = sorted(str(dtype) for dtype in dtypes if dtype not in FLOATS)
    return f"the engine has no kernels for {', '.join(others)}" if others else ""


def _file_stamp(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def _rebuild(wanted: bool, options: Mapping[str, Any]) -> Handover:
    return Handover(wanted=wanted, options=options)
