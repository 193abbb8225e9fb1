"""Features: the columns of a dataset and their kinds, to and from Arrow schemas, JSON and Python values."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from martlet.datasets import elsewhere
from martlet.datasets.absent import ABSENT
from martlet.datasets.audio import Audio
from martlet.datasets.dtypes import dtype_of
from martlet.datasets.image import Image
from martlet.datasets.kinds import (
    EXTENSION_DATA,
    EXTENSION_NAME,
    Array2D,
    Array3D,
    Array4D,
    Array5D,
    ClassLabel,
    Json,
    LargeList,
    List,
    Sequence,
    Translation,
    TranslationVariableLanguages,
    Value,
    walk,
)
from martlet.errors import ArgumentError, FeatureError, UnsupportedError

__all__ = [
    "Array2D",
    "Array3D",
    "Array4D",
    "Array5D",
    "Audio",
    "ClassLabel",
    "Features",
    "Image",
    "Json",
    "LargeList",
    "List",
    "Sequence",
    "Translation",
    "TranslationVariableLanguages",
    "Value",
]
KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        *(Value, ClassLabel, List, LargeList, Sequence, Array2D, Array3D, Array4D, Array5D),
        *(Image, Audio, Translation, TranslationVariableLanguages, Json),
    )
}
ARRAYS = {2: Array2D, 3: Array3D, 4: Array4D, 5: Array5D}
SCHEMA_KEY = b"huggingface"


class Features(dict[str, Any]):
    """The kind of each column by name: Value, ClassLabel, List, a dict of kinds, Image, ...

    A `[kind]` is a `List(kind)`. Equal to Hugging Face's in JSON and in Arrow schemas.
    """

    def __init__(*args: Any, **kwargs: Any) -> None:  # a column may be named "self"
        self, *rest = args
        dict.__init__(self, {name: _checked(name, kind) for name, kind in dict(*rest, **kwargs).items()})

    def __setitem__(self, name: str, kind: Any) -> None:
        super().__setitem__(name, _checked(name, kind))

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As a dict's; each kind is checked."""
        super().update(Features(*args, **kwargs))

    def __reduce__(self) -> tuple[Any, ...]:
        return Features, (dict(self),)

    def copy(self) -> Features:
        """A deep copy."""
        return copy.deepcopy(self)

    @property
    def type(self) -> pa.DataType:
        """The Arrow struct of a row."""
        return pa.struct(list(self._fields()))

    @property
    def arrow_schema(self) -> pa.Schema:
        """The Arrow schema, with the features themselves as metadata under "huggingface"."""
        return pa.schema(self._fields(), {SCHEMA_KEY: json.dumps({"info": {"features": self.to_dict()}}).encode()})

    def _fields(self) -> Iterable[pa.Field]:
        return (arrow_field(name, kind) for name, kind in self.items())

    @classmethod
    def from_arrow_schema(cls, pa_schema: pa.Schema) -> Features:
        """Features of a schema: from its metadata where this agrees with the Arrow types, else from the types."""
        known = cls()
        if pa_schema.metadata and SCHEMA_KEY in pa_schema.metadata:
            try:
                known = cls.from_dict(json.loads(pa_schema.metadata[SCHEMA_KEY])["info"]["features"] or {})
            except (KeyError, TypeError, AttributeError):
                known = cls()
        kinds = {}
        for field in pa_schema:
            kind = known.get(field.name)
            agrees = kind is not None and plain_type(arrow_field("", kind).type) == plain_type(field.type)
            kinds[field.name] = kind if agrees else kind_of(field)
        return cls(kinds)

    @classmethod
    def from_dict(cls, dic: Mapping[str, Any]) -> Features:
        """Features of their JSON form, `to_dict`'s."""
        return cls({name: _from_json(kind) for name, kind in dic.items()})

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: each kind is {"_type": ..., what differs from the default}."""
        return {name: _to_json(kind) for name, kind in self.items()}

    def encode_example(self, example: Mapping[str, Any]) -> dict[str, Any]:
        """A row as Arrow takes it: names become numbers, pictures bytes. A missing key is None."""
        if example is None:
            raise FeatureError("a row", "must be a dict", found="None")
        return {name: encode(kind, example.get(name)) for name, kind in self.items()}

    def encode_column(self, column: Iterable[Any], column_name: str) -> list[Any]:
        """A column's values as Arrow takes them."""
        return [encode(self[column_name], value) for value in column]

    def encode_batch(self, batch: Mapping[str, Iterable[Any]]) -> dict[str, list[Any]]:
        """Columns as Arrow takes them. FeatureError unless the batch has our columns."""
        if set(batch) != set(self):
            raise FeatureError("a batch", f"must have the columns {sorted(self)}", found=sorted(batch))
        return {name: self.encode_column(column, name) for name, column in batch.items()}

    def decode_example(self, example: Mapping[str, Any], token_per_repo_id: Any = None) -> dict[str, Any]:
        """A row as users see it: pictures and sound decoded, JSON parsed."""
        needs_no_tokens(token_per_repo_id)
        return {name: decode(self[name], value) for name, value in example.items() if name in self}

    def decode_column(self, column: list[Any], column_name: str) -> list[Any]:
        """A column's values as users see them."""
        kind = self[column_name]
        return [decode(kind, value) for value in column] if decodes(kind) else column

    def decode_batch(self, batch: Mapping[str, list[Any]], token_per_repo_id: Any = None) -> dict[str, list[Any]]:
        """Columns as users see them."""
        needs_no_tokens(token_per_repo_id)
        return {name: self.decode_column(column, name) for name, column in batch.items()}

    def reorder_fields_as(self, other: Features) -> Features:
        """The same features in the order of `other`, nested ones too. FeatureError if the names differ."""
        return Features(_reordered(self, other, "the features"))

    def flatten(self, max_depth: int = 16) -> Features:
        """A column for every field of a struct, named "column.field"."""
        flat = self
        for _ in range(max_depth - 1):
            kinds: dict[str, Any] = {}
            for name, kind in flat.items():
                parts = kind if isinstance(kind, dict) else kind.flatten() if hasattr(kind, "flatten") else kind
                if isinstance(parts, dict):
                    kinds.update({f"{name}.{part}": sub for part, sub in parts.items()})
                else:
                    kinds[name] = kind
            if kinds.keys() == flat.keys():
                return Features(kinds)
            flat = Features(kinds)
        return flat


def needs_no_tokens(token_per_repo_id: Any) -> None:
    """UnsupportedError for tokens of single repositories."""
    if any((token_per_repo_id or {}).values()):
        remedy = "Log in, or set HF_TOKEN: hf:// files are read with it."
        raise UnsupportedError("token_per_repo_id", "one token is used for all repositories", remedy=remedy)


def arrow_field(name: str, kind: Any) -> pa.Field:
    """The Arrow field of a kind; arrays and JSON are plain storage, marked in the field's metadata."""
    if isinstance(kind, dict):
        return pa.field(name, pa.struct([arrow_field(part, sub) for part, sub in kind.items()]))
    if isinstance(kind, List):
        return pa.field(name, pa.list_(arrow_field("item", kind.feature), kind.length))
    if isinstance(kind, LargeList):
        return pa.field(name, pa.large_list(arrow_field("item", kind.feature)))
    return pa.field(name, kind(), metadata=getattr(kind, "field_metadata", None))


def kind_of(field: pa.Field) -> Any:
    """The kind that an Arrow field implies."""
    kind, metadata = field.type, field.metadata or {}
    name = metadata.get(EXTENSION_NAME, b"").decode()
    data = metadata.get(EXTENSION_DATA, b"")
    if isinstance(kind, pa.BaseExtensionType):
        name = kind.extension_name
        data = kind.__arrow_ext_serialize__() if isinstance(kind, pa.ExtensionType) else b""
        kind = kind.storage_type
    if name == "arrow.json":
        return Json()
    for ndim, array in ARRAYS.items():
        if name == f"datasets.features.features.Array{ndim}DExtensionType":
            shape, dtype = json.loads(data)
            return array(tuple(shape), dtype)
    if pa.types.is_struct(kind):
        return {sub.name: kind_of(sub) for sub in kind}
    if pa.types.is_fixed_size_list(kind):
        return List(kind_of(kind.value_field), length=kind.list_size)
    if pa.types.is_list(kind):
        return List(kind_of(kind.value_field))
    if pa.types.is_large_list(kind):
        return LargeList(kind_of(kind.value_field))
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return (List if pa.types.is_list_view(kind) else LargeList)(kind_of(kind.value_field))
    if pa.types.is_map(kind):
        return List({"key": kind_of(kind.key_field), "value": kind_of(kind.item_field)})
    if pa.types.is_run_end_encoded(kind):
        return Value(dtype_of(kind.value_type))
    return Value(dtype_of(kind))


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type with every extension type replaced by its storage, and no field metadata."""
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(sub.name, plain_type(sub.type)) for sub in kind])
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(plain_type(kind.value_type), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(plain_type(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(plain_type(kind.value_type))
    return kind


def encode(kind: Any, value: Any) -> Any:
    """A value as Arrow takes it."""
    if value is None:
        return None
    if isinstance(kind, dict):
        if not isinstance(value, Mapping):
            raise FeatureError("a struct", f"needs a dict of {_listed(kind)}", found=repr(value)[:80])
        return {name: encode(sub, value.get(name)) for name, sub in kind.items()}
    if isinstance(kind, List | LargeList):
        if hasattr(value, "tolist"):
            value = value.tolist()
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            raise FeatureError("a list", f"needs a list of {kind.feature!r}", found=repr(value)[:80])
        return [encode(kind.feature, item) for item in value]
    if hasattr(kind, "encode_example"):
        return kind.encode_example(value)
    return value


def decode(kind: Any, value: Any) -> Any:
    """A value as users see it."""
    if value is None or not decodes(kind):
        return value
    if isinstance(kind, dict):
        return {name: decode(sub, value[name]) for name, sub in kind.items() if name in value}
    if isinstance(kind, List | LargeList):
        return [decode(kind.feature, item) for item in value]
    return kind.decode_example(value)


def decodes(kind: Any) -> bool:
    """Whether values of the kind look different to users than to Arrow."""
    return any(hasattr(sub, "decode_example") and sub.decode for sub in walk(kind))


def changed(kind: Any, change: Callable[[Any], Any]) -> Any:
    """The kind with `change` applied to every part, innermost first; where it returns None the part stays."""
    if isinstance(kind, dict):
        parts = {name: changed(sub, change) for name, sub in kind.items()}
        kind = Features(parts) if isinstance(kind, Features) else parts
    elif isinstance(kind, List):
        kind = List(changed(kind.feature, change), length=kind.length)
    elif isinstance(kind, LargeList):
        kind = LargeList(changed(kind.feature, change))
    new = change(kind)
    return kind if new is None else new


def is_null(kind: Any) -> bool:
    """Whether the kind is null, or lists of null: no value was seen yet."""
    if isinstance(kind, List | LargeList):
        return is_null(kind.feature)
    return isinstance(kind, Value) and kind.dtype == "null"


def aligned(several: Iterable[Features]) -> Features:
    """All columns of several features; a null column takes the kind it has elsewhere. FeatureError if two disagree."""
    whole = Features()
    for features in several:
        for name, kind in features.items():
            if name in whole and isinstance(kind, dict) and isinstance(whole[name], dict) and kind != whole[name]:
                whole[name] = dict(aligned([Features(whole[name]), Features(kind)]))
            elif name not in whole or is_null(whole[name]):
                whole[name] = kind
            elif not is_null(kind) and kind != whole[name]:
                raise FeatureError(f"column {name!r}", f"is {whole[name]!r} in one place", found=f"{kind!r} in another")
    return whole


def _checked(name: str, kind: Any) -> Any:
    if isinstance(kind, list | tuple):
        if len(kind) != 1:
            raise ArgumentError(f"feature {name!r}", "a list must hold one kind", found=kind)
        return List(_checked(name, kind[0]))
    if isinstance(kind, dict):
        return {part: _checked(f"{name}.{part}", sub) for part, sub in kind.items()}
    if isinstance(kind, List):
        return kind if not _holds_list(kind) else List(_checked(name, kind.feature), kind.length)
    if isinstance(kind, LargeList):
        return kind if not _holds_list(kind) else LargeList(_checked(name, kind.feature))
    if isinstance(kind, pa.DataType):
        return kind_of(pa.field(name, kind))
    if isinstance(kind, str) or not callable(kind) or isinstance(kind, type):
        raise ArgumentError(f"feature {name!r}", "must be a kind such as Value('string')", found=repr(kind))
    return kind


def _holds_list(kind: Any) -> bool:
    return any(isinstance(sub, list | tuple) for sub in walk(kind))


def _to_json(kind: Any) -> Any:
    if isinstance(kind, dict):
        return {name: _to_json(sub) for name, sub in kind.items()}
    out = {}
    for field in fields(kind):
        value = getattr(kind, field.name)
        if field.name != "_type" and value != field.default:
            out[field.name] = _to_json(value) if field.name == "feature" else copy.copy(value)
    return {**out, "_type": kind._type}


def _from_json(kind: Any) -> Any:
    if isinstance(kind, list):
        return [_from_json(sub) for sub in kind]
    if not isinstance(kind, dict):
        raise FeatureError("features", "each must be a dict with _type, or a dict of such", found=repr(kind)[:80])
    if "_type" not in kind or isinstance(kind["_type"], dict):
        return {name: _from_json(sub) for name, sub in kind.items()}
    values = {key: value for key, value in kind.items() if key != "_type"}
    if kind["_type"] in ABSENT:
        ABSENT[kind["_type"]]()
    if kind["_type"] not in KINDS:
        raise FeatureError("features", f"the kinds are {', '.join(KINDS)}", found=kind["_type"])
    made = KINDS[kind["_type"]]
    if "feature" in values:
        return made(_from_json(values.pop("feature")), **values)
    known = {field.name for field in fields(made)}
    return made(**{key: value for key, value in values.items() if key in known})


def _reordered(ours: Any, theirs: Any, where: str) -> Any:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if ours.keys() != theirs.keys():
            raise FeatureError(where, f"must have the fields {_listed(theirs)}", found=_listed(ours))
        return {name: _reordered(ours[name], theirs[name], f"{where}.{name}") for name in theirs}
    for kind in (List, LargeList):
        if isinstance(ours, kind) and isinstance(theirs, kind):
            sub = _reordered(ours.feature, theirs.feature, where)
            return List(sub, length=ours.length) if isinstance(ours, List) else LargeList(sub)
    if isinstance(ours, dict | List | LargeList) or isinstance(theirs, dict | List | LargeList):
        raise FeatureError(where, f"is {theirs!r} in the one", found=f"{ours!r} in the other")
    return ours


def _listed(kind: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, kind))


__path__: list[str] = []  # what is asked of it and is not here is elsewhere's to answer

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return elsewhere.public(__name__, name)
