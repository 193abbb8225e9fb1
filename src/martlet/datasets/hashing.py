"""The key of a function and of what it closes over: the same for the same behaviour, in every process."""

from __future__ import annotations

import datetime
import decimal
import dis
import enum
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import re
import sys
import sysconfig
import types
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from martlet.errors import HashingError

_SIMPLE = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))
_WRITABLE = (list, dict, set, bytearray)
_BY_REPR = (
    *(range, slice, pathlib.PurePath, datetime.date, datetime.time, datetime.timedelta, datetime.timezone),
    *(decimal.Decimal, uuid.UUID),
)
_SEEN_OUTSIDE = {"print", "input", "open", "exec", "eval", "globals", "setattr", "delattr"}
_QUIET_ATTRIBUTES = {"deprecation_warnings"}  # what a tokenizer notes while it works
_LIBRARIES = tuple({os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")})


class Hasher:
    """Feeds objects into one hash. `is_pure` tells whether all of it can be seen to have no effect outside.

    A function is its code, defaults, closure and the globals it names; a library's function is its name and version.
    """

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []
        self._path: list[str] = []
        self.is_pure = True

    def digest(self) -> str:
        """32 hexadecimal digits of all that was fed."""
        return self._hash.hexdigest()

    def _tag(self, *parts: str | bytes) -> None:
        for part in parts:
            data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
            self._hash.update(len(data).to_bytes(8, "little") + data)

    def feed(self, value: Any, name: str = "") -> None:
        """One object. HashingError, with the way to it, for one that cannot be hashed."""
        if name:
            self._path.append(name)
        try:
            self._feed(value)
        except RecursionError as problem:
            raise self._unhashable(value, "it is nested too deeply") from problem
        finally:
            if name:
                self._path.pop()

    def _feed(self, value: Any) -> None:
        kind = type(value)
        if kind in _SIMPLE:
            self._tag(kind.__name__, repr(value) if not isinstance(value, str | bytes) else value)
            return
        if id(value) in self._seen:
            self._tag("again", str(self._seen[id(value)]))
            return
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)  # an id is only ours while its object lives
        for known, feed in _FEEDS:
            if isinstance(value, known):
                feed(self, value)
                return
        feed_by_name = _BY_CLASS.get(f"{kind.__module__}.{kind.__qualname__}")
        if feed_by_name is not None:
            feed_by_name(self, value)
        else:
            self._feed_object(value)

    def _unhashable(self, value: Any, why: str) -> HashingError:
        way = " -> ".join(self._path) or "the function"
        remedy = "Make it inside the function, pass what it is made from, or give cache=False."
        return HashingError(f"{way}: {type(value).__module__}.{type(value).__qualname__}", why, remedy=remedy)

    # Containers

    def _feed_list(self, value: Any) -> None:
        self.is_pure &= not isinstance(value, _WRITABLE)
        self._tag(type(value).__name__, str(len(value)))
        for index, item in enumerate(value):
            self.feed(item, f"[{index}]")

    def _feed_dict(self, value: Mapping[Any, Any]) -> None:
        self.is_pure = self.is_pure and isinstance(value, types.MappingProxyType)
        self._tag(type(value).__name__, str(len(value)))
        for key, item in value.items():
            self.feed(key)
            self.feed(item, f"[{key!r}]")

    def _feed_set(self, value: Any) -> None:
        self.is_pure &= not isinstance(value, set)
        digests = []
        for item in value:
            sub = Hasher()
            sub.feed(item)
            digests.append(sub.digest())
        self._tag(type(value).__name__, *sorted(digests))

    # Code

    def _feed_function(self, function: types.FunctionType) -> None:
        if library := _library_of(function.__module__):
            self._tag("function", library, function.__module__, function.__qualname__)
            self._feed_cells(function)
            return
        self._tag("function", function.__name__)
        self._feed_code(function.__code__)
        self.feed(function.__defaults__ and tuple(function.__defaults__), "its defaults")
        for name, default in (function.__kwdefaults__ or {}).items():
            self.feed(default, f"default of {name}")
        self._feed_cells(function)
        for name in sorted(_global_names(function.__code__)):
            if name in function.__globals__:
                self._tag("global", name)
                self.feed(function.__globals__[name], f"{function.__name__}: global {name!r}")
            elif name in _SEEN_OUTSIDE:
                self.is_pure = False

    def _feed_cells(self, function: types.FunctionType) -> None:
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:
                self._tag("empty cell")
                continue
            self.feed(content, f"{function.__name__}: variable {name!r}")

    def _feed_code(self, code: types.CodeType) -> None:
        self._tag("code", code.co_code, repr(code.co_names), repr(code.co_varnames), repr(code.co_freevars))
        self._tag(str(code.co_argcount), str(code.co_kwonlyargcount), str(code.co_posonlyargcount), str(code.co_flags))
        if any(step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL") for step in dis.get_instructions(code)):
            self.is_pure = False
        if any(s.opname == "STORE_DEREF" and s.argval in code.co_freevars for s in dis.get_instructions(code)):
            self.is_pure = False
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._feed_code(constant)
            else:
                self.feed(constant)

    def _feed_method(self, method: types.MethodType) -> None:
        self._tag("method")
        self.feed(method.__func__)
        self.feed(method.__self__, "its object")

    def _feed_partial(self, value: Any) -> None:
        self._tag("partial")
        self.feed(value.func)
        self.feed(value.args, "its arguments")
        for key, item in value.keywords.items():
            self._tag(key)
            self.feed(item, f"argument {key!r}")

    def _feed_builtin(self, value: Any) -> None:
        owner = getattr(value, "__self__", None)
        self._tag("builtin", getattr(value, "__module__", None) or "", value.__qualname__)
        if owner is not None and not isinstance(owner, types.ModuleType | type):
            self.feed(owner, "its object")

    def _feed_module(self, value: types.ModuleType) -> None:
        self._tag("module", value.__name__, _version(value.__name__.split(".")[0]))
        if not _library_of(value.__name__):
            source = getattr(value, "__file__", None)
            if source and os.path.isfile(source):
                self._tag(pathlib.Path(source).read_bytes())

    def _feed_class(self, value: type) -> None:
        library = _library_of(value.__module__)
        self._tag("class", library or "", value.__module__ if library else "", value.__qualname__)
        if library:
            return
        for base in value.__bases__:
            self.feed(base)
        for name, item in sorted(vars(value).items()):
            if name not in (
                "__dict__",
                "__weakref__",
                "__doc__",
                "__module__",
                "__firstlineno__",
                "__static_attributes__",
            ):
                self._tag(name)
                self.feed(_bare(item), f"{value.__qualname__}.{name}")

    # Objects

    def _feed_object(self, value: Any) -> None:
        kind, was_pure = type(value), self.is_pure
        self._feed_state(value, kind)
        self.is_pure = was_pure and _is_model_part(kind)  # what it keeps to itself is its own

    def _feed_state(self, value: Any, kind: type) -> None:
        if isinstance(value, types.GeneratorType | types.CoroutineType | types.FrameType | types.TracebackType):
            raise self._unhashable(value, "cannot be hashed: it is something that runs")
        self._tag("object")
        self.feed(kind)
        if not _has_own_reduce(kind):
            state = getattr(value, "__dict__", None)
            tells = any("__getstate__" in vars(base) for base in kind.__mro__ if base is not object)
            if tells and isinstance(told := value.__getstate__(), dict):
                state = told  # it leaves out locks, and what can be made again
            slots = [name for base in kind.__mro__ for name in _slots(base) if hasattr(value, name)]
            if state is not None or slots or kind.__module__ != "builtins":
                for name in slots:
                    self._tag(name)
                    self.feed(getattr(value, name), f".{name}")
                for name, item in sorted((state or {}).items(), key=lambda pair: str(pair[0])):
                    if name not in _QUIET_ATTRIBUTES:
                        self._tag(str(name))
                        self._feed_part(value, item, f".{name}")
                if state is not None or slots:
                    return
        try:
            reduced = value.__reduce_ex__(4)
        except Exception as problem:
            raise self._unhashable(value, f"cannot be hashed: {problem}") from problem
        if isinstance(reduced, str):
            self._tag(reduced)
            return
        for part in reduced:
            self.feed(tuple(part) if hasattr(part, "__next__") else part, "its state")

    def _feed_part(self, owner: Any, item: Any, name: str) -> None:
        """A part of an object; a tokenizer within one is given its padding and truncation by each call."""
        if type(item).__module__.split(".")[0] == "tokenizers" and hasattr(item, "to_str"):
            from martlet.tokenizers.fast import written_form

            is_ours = type(owner).__module__.startswith("martlet.tokenizers.")
            self._tag("tokenizer", owner.written() if is_ours else written_form(item))
        else:
            self.feed(item, name)


def key_of(*values: Any) -> tuple[str, bool]:
    """The key of values, and whether all that they can do outside is seen to be nothing."""
    hasher = Hasher()
    for value in values:
        hasher.feed(value)
    return hasher.digest(), hasher.is_pure


def _global_names(code: types.CodeType) -> set[str]:
    names = {
        step.argval
        for step in dis.get_instructions(code)
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL")
    }
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names


@functools.cache
def _library_of(module: str | None) -> str:
    """Name and version of the installed library, or of Python, that has this module; "" for the user's own."""
    if module is None or module in ("__main__", "__mp_main__"):
        return ""
    if module == "builtins":
        return f"python {sys.version_info[:2]}"
    found = sys.modules.get(module)
    source = getattr(found, "__file__", None)
    top = module.split(".")[0]
    if source is None:
        return f"{top} {_version(top)}" if found is None or not hasattr(found, "__path__") else ""
    if os.path.realpath(source).startswith(_LIBRARIES) or top == "martlet":
        return f"{top} {_version(top)}"
    return ""


@functools.cache
def _version(package: str) -> str:
    if package in sys.stdlib_module_names:
        return f"python {sys.version_info[:2]}"
    try:
        return importlib.metadata.version(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return str(getattr(sys.modules.get(package), "__version__", ""))


def _is_model_part(kind: type) -> bool:
    """Tokenizers and torch modules: called for their value, so a call of them leaves nothing behind that we see."""
    for base in kind.__mro__:
        root = base.__module__.split(".")[0]
        if root == "tokenizers" or base.__name__.endswith(("Tokenizer", "TokenizerBase", "ProcessorMixin")):
            return True
        if root == "torch" and base.__name__ == "Module":
            return True
    return False


def _has_own_reduce(kind: Any) -> bool:
    return kind.__reduce_ex__ is not object.__reduce_ex__ or kind.__reduce__ is not object.__reduce__


def _bare(item: Any) -> Any:
    if isinstance(item, staticmethod | classmethod):
        return item.__func__
    if isinstance(item, property):
        return (item.fget, item.fset, item.fdel)
    if isinstance(item, functools.cached_property):
        return item.func
    if isinstance(item, types.MemberDescriptorType | types.GetSetDescriptorType | types.WrapperDescriptorType):
        return item.__name__
    return item


def _slots(kind: type) -> tuple[str, ...]:
    slots = kind.__dict__.get("__slots__", ())
    return (
        (slots,) if isinstance(slots, str) else tuple(name for name in slots if name not in ("__dict__", "__weakref__"))
    )


def _feed_repr(hasher: Hasher, value: Any) -> None:
    hasher._tag(type(value).__qualname__, repr(value))


def _feed_bytes(hasher: Hasher, value: bytearray) -> None:
    hasher.is_pure = False
    hasher._tag("bytearray", bytes(value))


def _feed_enum(hasher: Hasher, value: enum.Enum) -> None:
    hasher._tag("enum", type(value).__qualname__, value.name)


def _feed_pattern(hasher: Hasher, value: re.Pattern[Any]) -> None:
    hasher._tag("pattern", repr(value.pattern), str(value.flags))


def _feed_array(hasher: Hasher, value: Any) -> None:
    import numpy as np

    hasher.is_pure = False
    hasher._tag("array", str(value.dtype), str(value.shape))
    if value.dtype == object:
        for item in value.ravel().tolist():
            hasher.feed(item)
    else:
        hasher._tag(np.ascontiguousarray(value).tobytes())


def _feed_tensor(hasher: Hasher, value: Any) -> None:
    import torch

    plain = value.detach().cpu().contiguous()
    hasher._tag("tensor", str(value.dtype), str(tuple(value.shape)), str(value.requires_grad))
    hasher._tag(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")


def _feed_arrow(hasher: Hasher, value: Any) -> None:
    import pyarrow as pa

    if isinstance(value, pa.Table | pa.RecordBatch):
        from martlet.datasets.stored import key_of_table

        table = pa.Table.from_batches([value]) if isinstance(value, pa.RecordBatch) else value
        hasher._tag("table", key_of_table(table))
    elif isinstance(value, pa.Array | pa.ChunkedArray):
        _feed_arrow(hasher, pa.table({"": value}))
    else:
        hasher._tag("arrow", type(value).__qualname__, str(value))


def _feed_tokenizer(hasher: Hasher, value: Any) -> None:
    hasher._tag("tokenizer", value.to_str())


def _feed_generic(hasher: Hasher, value: Any) -> None:
    hasher._tag("numpy scalar", str(value.dtype), value.tobytes())


def _feed_dataset(hasher: Hasher, value: Any) -> None:
    hasher._tag("dataset", value._key)


def _feed_frame(hasher: Hasher, value: Any) -> None:
    import pandas as pd

    hasher.is_pure = False
    hasher._tag("pandas", repr(list(getattr(value, "columns", [value.name if hasattr(value, "name") else ""]))))
    hasher._tag(pd.util.hash_pandas_object(value).to_numpy().tobytes())


def _feed_polars(hasher: Hasher, value: Any) -> None:
    import pyarrow as pa

    _feed_arrow(hasher, value.to_arrow() if hasattr(value, "columns") else pa.table({"": value.to_arrow()}))


_FEEDS: list[tuple[Any, Callable[[Hasher, Any], None]]] = [
    (enum.Enum, _feed_enum),
    ((list, tuple), Hasher._feed_list),
    ((dict, types.MappingProxyType), Hasher._feed_dict),
    ((set, frozenset), Hasher._feed_set),
    (bytearray, _feed_bytes),
    (_BY_REPR, _feed_repr),
    (re.Pattern, _feed_pattern),
    (types.FunctionType, Hasher._feed_function),
    (types.MethodType, Hasher._feed_method),
    (functools.partial, Hasher._feed_partial),
    ((types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType), Hasher._feed_builtin),
    (types.ModuleType, Hasher._feed_module),
    (type, Hasher._feed_class),
    (types.GenericAlias, _feed_repr),
    (types.CodeType, Hasher._feed_code),
]
_BY_CLASS: dict[str, Callable[[Hasher, Any], None]] = {
    "numpy.ndarray": _feed_array,
    "torch.Tensor": _feed_tensor,
    "torch.nn.parameter.Parameter": _feed_tensor,
    "torch.dtype": _feed_repr,
    "torch.device": _feed_repr,
    "tokenizers.Tokenizer": _feed_tokenizer,
    "pyarrow.lib.Table": _feed_arrow,
    "pyarrow.lib.RecordBatch": _feed_arrow,
    "pyarrow.lib.Schema": _feed_arrow,
    "pyarrow.lib.ChunkedArray": _feed_arrow,
    "martlet.datasets.dataset.Dataset": _feed_dataset,
    "pandas.DataFrame": _feed_frame,
    "pandas.Series": _feed_frame,
    "pandas.core.frame.DataFrame": _feed_frame,
    "pandas.core.series.Series": _feed_frame,
    "polars.dataframe.frame.DataFrame": _feed_polars,
    "polars.series.series.Series": _feed_polars,
}
