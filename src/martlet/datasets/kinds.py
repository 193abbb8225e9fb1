"""The kinds of a column: Value, ClassLabel, List, arrays, translations, JSON. Image and Audio have their own files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as AnySequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from martlet.datasets.dtypes import arrow_type
from martlet.errors import ArgumentError, FeatureError

# What Arrow calls a field's extension type on disk. We keep plain storage in memory and the name on the field,
# so that files are read by Hugging Face's library as its own, and both libraries live in one process.
EXTENSION_NAME, EXTENSION_DATA = b"ARROW:extension:name", b"ARROW:extension:metadata"

NO_LABEL = (-1, -100)  # not known; one that no loss counts


@dataclass(repr=False)
class Value:
    """A scalar of an Arrow type, by name: "int64", "float32", "string", "timestamp[us, tz=UTC]", ..."""

    dtype: str
    id: str | None = field(default=None, repr=False)
    pa_type: ClassVar[Any] = None
    _type: str = field(default="Value", init=False, repr=False)

    def __post_init__(self) -> None:
        self.dtype = {"double": "float64", "float": "float32"}.get(self.dtype, self.dtype)
        self.pa_type = arrow_type(self.dtype)  # type: ignore[misc]

    def __call__(self) -> pa.DataType:
        return self.pa_type

    def encode_example(self, value: Any) -> Any:
        """The value as Arrow takes it: `bool`, `int`, `float` or `str` by the dtype, else as it is."""
        kind = self.pa_type
        try:
            if pa.types.is_boolean(kind):
                return bool(value)
            if pa.types.is_integer(kind):
                number = int(value)
                if isinstance(value, float | np.floating) and number != value:
                    raise ValueError
                return number
            if pa.types.is_floating(kind):
                return float(value)
        except (ValueError, TypeError) as problem:
            raise FeatureError(f"Value({self.dtype!r})", "cannot hold this", found=repr(value)[:80]) from problem
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            return str(value)
        return value

    def __repr__(self) -> str:
        return f"Value({self.dtype!r})"


@dataclass(init=False)
class ClassLabel:
    """An integer that stands for a name; -1 is "no label". From `names`, `num_classes` or a `names_file` of lines."""

    names: list[str]
    id: str | None = field(default=None, repr=False)
    _type: str = field(default="ClassLabel", init=False, repr=False)
    dtype: ClassVar[str] = "int64"
    pa_type: ClassVar[Any] = pa.int64()

    def __init__(
        self, num_classes: int | None = None, names: Any = None, names_file: str | None = None, id: str | None = None
    ) -> None:
        if names_file is not None and names is not None:
            raise ArgumentError("ClassLabel", "takes names or names_file, not both")
        if names_file is not None:
            lines = Path(names_file).read_text("utf-8").split("\n")
            names = [line.strip() for line in lines if line.strip()]
        if names is None:
            if num_classes is None:
                raise ArgumentError("ClassLabel", "needs num_classes, names or names_file")
            names = [str(number) for number in range(num_classes)]
        if isinstance(names, str) or not isinstance(names, AnySequence):
            raise ArgumentError("ClassLabel", "names must be a list of strings", found=type(names).__name__)
        if num_classes is not None and num_classes != len(names):
            raise ArgumentError("ClassLabel", f"num_classes is {num_classes}", found=f"{len(names)} names")
        self.names, self.id, self._type = list(names), id, "ClassLabel"
        self.num_classes = len(self.names)
        self._names = [str(name) for name in self.names]
        self._numbers = {name: number for number, name in enumerate(self._names)}
        if len(self._numbers) != len(self._names):
            twice = next(name for name in self._names if self._names.count(name) > 1)
            raise ArgumentError("ClassLabel", "each name must be there once", found=repr(twice))

    def __call__(self) -> pa.DataType:
        return self.pa_type

    def str2int(self, values: str | Iterable[Any]) -> Any:
        """The number of a name, or the numbers of names. FeatureError for a name that is none of ours."""
        if isinstance(values, str):
            return self._number(values)
        if not isinstance(values, Iterable):
            raise ArgumentError("str2int", "takes a name or names", found=type(values).__name__)
        return [self._number(value) for value in values]

    def _number(self, value: Any) -> int:
        text = str(value)
        number = self._numbers.get(text, self._numbers.get(text.strip()))
        if number is None:
            try:
                number = int(text)
            except ValueError:
                number = -2
            if not -1 <= number < self.num_classes:
                raise FeatureError("ClassLabel", f"the names are {_few(self._names)}", found=repr(text))
        return number

    def int2str(self, values: int | Iterable[int]) -> Any:
        """The name of a number, or the names of numbers. FeatureError outside 0 .. num_classes - 1."""
        if isinstance(values, int | np.integer):
            return self._name(int(values))
        if not isinstance(values, Iterable):
            raise ArgumentError("int2str", "takes a number or numbers", found=type(values).__name__)
        return [self._name(int(value)) for value in values]

    def _name(self, number: int) -> str:
        if not 0 <= number < self.num_classes:
            raise FeatureError("ClassLabel", f"the numbers are 0 to {self.num_classes - 1}", found=number)
        return self._names[number]

    def encode_example(self, value: Any) -> int:
        """The number: names become numbers. FeatureError outside 0 .. num_classes - 1; -1 and -100 are no label."""
        number = self._number(value) if isinstance(value, str) else value
        if isinstance(number, float | np.floating) and number % 1:
            raise FeatureError("ClassLabel", "the numbers are whole", found=number)
        if not 0 <= number < self.num_classes and number not in NO_LABEL:
            raise FeatureError("ClassLabel", f"the numbers are -1 to {self.num_classes - 1}", found=number)
        return int(number)

    def cast_storage(self, storage: pa.Array) -> pa.Array:
        """An Arrow array of names or numbers as numbers."""
        if pa.types.is_dictionary(storage.type):
            storage = storage.dictionary_decode()
        if pa.types.is_integer(storage.type) and len(storage):
            found = pc.min_max(storage).as_py()
            if found["max"] is not None and found["max"] >= self.num_classes:
                raise FeatureError("ClassLabel", f"the numbers are -1 to {self.num_classes - 1}", found=found["max"])
        elif _is_text(storage.type):
            unique = pc.unique(storage).to_pylist()
            numbers = {name: None if name is None else self._number(name) for name in unique}
            storage = pa.array([numbers[name] for name in storage.to_pylist()], pa.int64())
        return storage.cast(pa.int64())


class Sequence:
    """A list of a feature. Of a dict it makes a dict of lists, as Hugging Face's does; `List` keeps a list of dicts."""

    def __new__(cls, feature: Any = None, length: int = -1, **kwargs: Any) -> Any:
        if cls is Sequence and isinstance(feature, dict) and not all(isinstance(sub, List) for sub in feature.values()):
            return {name: List(sub, length=length, **kwargs) for name, sub in feature.items()}
        return super().__new__(List)


@dataclass(repr=False)
class List(Sequence):
    """A list of a feature, of any length or of `length` items. Offsets have 32 bits; see `LargeList`."""

    feature: Any
    length: int = -1
    id: str | None = field(default=None, repr=False)
    pa_type: ClassVar[Any] = None
    _type: str = field(default="List", init=False, repr=False)

    def __repr__(self) -> str:
        return f"List({self.feature}, length={self.length})" if self.length != -1 else f"List({self.feature})"


@dataclass(repr=False)
class LargeList:
    """A list of a feature, with 64-bit offsets."""

    feature: Any
    id: str | None = field(default=None, repr=False)
    pa_type: ClassVar[Any] = None
    _type: str = field(default="LargeList", init=False, repr=False)

    def __repr__(self) -> str:
        return f"LargeList({self.feature})"


@dataclass
class ArrayXD:
    """An array of a fixed number of dimensions; the first may be None, which is any size."""

    shape: tuple[int | None, ...]
    dtype: str
    id: str | None = field(default=None, repr=False)
    ndim: ClassVar[int] = 0

    def __post_init__(self) -> None:
        self.shape = tuple(self.shape)
        name = type(self).__name__
        if len(self.shape) != self.ndim:
            raise ArgumentError(name, f"needs a shape of {self.ndim} sizes", found=self.shape)
        if None in self.shape[1:]:
            raise ArgumentError(name, "only the first size may be None", found=self.shape)

    def __call__(self) -> pa.DataType:
        kind = arrow_type(self.dtype)
        for _ in self.shape:
            kind = pa.list_(kind)
        return kind

    def encode_example(self, value: Any) -> Any:
        """The value as it is; its shape is checked where the column is written."""
        return value

    @property
    def field_metadata(self) -> dict[bytes, bytes]:
        """What marks the Arrow field as this array, in Hugging Face's words."""
        return {
            EXTENSION_NAME: f"datasets.features.features.Array{self.ndim}DExtensionType".encode(),
            EXTENSION_DATA: json.dumps((self.shape, self.dtype)).encode(),
        }


@dataclass
class Array2D(ArrayXD):
    """A 2-dimensional array."""

    _type: str = field(default="Array2D", init=False, repr=False)
    ndim: ClassVar[int] = 2


@dataclass
class Array3D(ArrayXD):
    """A 3-dimensional array."""

    _type: str = field(default="Array3D", init=False, repr=False)
    ndim: ClassVar[int] = 3


@dataclass
class Array4D(ArrayXD):
    """A 4-dimensional array."""

    _type: str = field(default="Array4D", init=False, repr=False)
    ndim: ClassVar[int] = 4


@dataclass
class Array5D(ArrayXD):
    """A 5-dimensional array."""

    _type: str = field(default="Array5D", init=False, repr=False)
    ndim: ClassVar[int] = 5


@dataclass
class Json:
    """Any JSON object, kept as its text: for columns whose values have no one type."""

    decode: bool = True
    id: str | None = field(default=None, repr=False)
    pa_type: ClassVar[Any] = pa.string()
    field_metadata: ClassVar[dict[bytes, bytes]] = {EXTENSION_NAME: b"arrow.json", EXTENSION_DATA: b""}
    _type: str = field(default="Json", init=False, repr=False)

    def __call__(self) -> pa.DataType:
        return self.pa_type

    def encode_example(self, value: Any) -> str | None:
        """JSON text. A string that already is JSON text is kept."""
        if value is None:
            return None
        if isinstance(value, str):
            try:
                json.loads(value)
                return value
            except ValueError:
                pass
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_as_json)

    def decode_example(self, value: str | None) -> Any:
        """The object."""
        return None if value is None else json.loads(value)

    def cast_storage(self, storage: pa.Array) -> pa.Array:
        """An Arrow array of anything as JSON texts."""
        return pa.array([self.encode_example(value) for value in storage.to_pylist()], pa.string())


@dataclass
class Translation:
    """A text in each of some languages: {"en": ..., "fr": ...}."""

    languages: list[str]
    id: str | None = field(default=None, repr=False)
    dtype: ClassVar[str] = "dict"
    pa_type: ClassVar[Any] = None
    _type: str = field(default="Translation", init=False, repr=False)

    def __call__(self) -> pa.DataType:
        return pa.struct({language: pa.string() for language in sorted(self.languages)})

    def flatten(self) -> dict[str, Any]:
        """A Value for each language."""
        return {language: Value("string") for language in sorted(self.languages)}


@dataclass
class TranslationVariableLanguages:
    """Texts in languages that vary from row to row: {"language": [...], "translation": [...]}, sorted by language."""

    languages: list[str] | None = None
    num_languages: int | None = None
    id: str | None = field(default=None, repr=False)
    dtype: ClassVar[str] = "dict"
    pa_type: ClassVar[Any] = None
    _type: str = field(default="TranslationVariableLanguages", init=False, repr=False)

    def __post_init__(self) -> None:
        self.languages = sorted(set(self.languages)) if self.languages else None
        self.num_languages = len(self.languages) if self.languages else None

    def __call__(self) -> pa.DataType:
        return pa.struct({"language": pa.list_(pa.string()), "translation": pa.list_(pa.string())})

    def encode_example(self, value: dict[str, Any]) -> dict[str, Any]:
        """{"en": "cat", "fr": ["chat", "minou"]} as two lists. FeatureError for a language that is not ours."""
        if set(value) == {"language", "translation"}:
            return value
        if self.languages and (strange := sorted(set(value) - set(self.languages))):
            raise FeatureError("TranslationVariableLanguages", f"the languages are {self.languages}", found=strange)
        pairs = sorted(
            (language, text)
            for language, texts in value.items()
            for text in ([texts] if isinstance(texts, str) else texts)
        )
        return {"language": [pair[0] for pair in pairs], "translation": [pair[1] for pair in pairs]}

    def flatten(self) -> dict[str, Any]:
        """Two lists of strings."""
        return {"language": List(Value("string")), "translation": List(Value("string"))}


def walk(feature: Any) -> Iterator[Any]:
    """The feature and every feature within it."""
    yield feature
    if isinstance(feature, dict):
        for sub in feature.values():
            yield from walk(sub)
    elif isinstance(feature, List | LargeList):
        yield from walk(feature.feature)


def _as_json(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise FeatureError("Json", "cannot hold this", found=type(value).__name__)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _few(names: AnySequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
