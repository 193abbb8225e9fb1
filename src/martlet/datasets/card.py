"""Features as a dataset card spells them in YAML, both ways."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from martlet.datasets.features import KINDS, Features
from martlet.errors import DataFileError, MartletError

_LISTS = {"list": "List", "sequence": "List", "large_list": "LargeList"}


def features_from_card(listed: Any, where: str) -> Features:
    """The features of `dataset_info: features:`. DataFileError for what is none."""
    try:
        return Features.from_dict(_fields(copy.deepcopy(listed)))
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration, MartletError) as problem:
        raise DataFileError(
            where, "features: in the README must be as the Hub writes them", found=str(problem)
        ) from problem


def _fields(listed: Any) -> dict[str, Any]:
    return {each.pop("name"): _kind(each) for each in listed}


def _kind(spelled: Any) -> Any:
    if isinstance(spelled, list):
        return _fields(spelled)
    if isinstance(spelled, str):
        spelled = {"dtype": spelled}
    name = next(iter(spelled))
    rest = {key: value for key, value in spelled.items() if key != name}
    if name in _LISTS:
        inner = _kind(spelled[name])
        if name == "sequence" and isinstance(spelled[name], list):
            return {key: {"feature": kind, **rest, "_type": "List"} for key, kind in inner.items()}
        return {"feature": inner, **rest, "_type": _LISTS[name]}
    if name == "struct":
        return _fields(spelled["struct"])
    if name == "dtype":
        if not isinstance(spelled["dtype"], str):
            return _kind(spelled["dtype"])
        camel = _camel(spelled["dtype"])
        return {"_type": camel} if camel in KINDS and camel != "Value" else {**spelled, "_type": "Value"}
    options = dict(spelled[name] or {})
    if name == "class_label" and isinstance(options.get("names"), Mapping):
        numbers = sorted(options["names"], key=int)
        if [int(number) for number in numbers] != list(range(len(numbers))):
            raise ValueError(f"a class_label needs a name for each number, not for {', '.join(map(str, numbers))}")
        options["names"] = [options["names"][number] for number in numbers]
    return {"_type": _camel(name), **options}


def _camel(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def features_to_card(features: Features) -> list[dict[str, Any]]:
    """The features as `dataset_info: features:` spells them."""
    return [{"name": name, **_spelled(kind)} for name, kind in features.to_dict().items()]


def _spelled(kind: Any) -> dict[str, Any]:
    if "_type" not in kind or isinstance(kind["_type"], dict):
        return {"struct": [{"name": name, **_spelled(sub)} for name, sub in kind.items()]}
    rest = {key: value for key, value in kind.items() if key not in ("_type", "feature")}
    if kind["_type"] in ("List", "LargeList"):
        inner = _spelled(kind["feature"])
        name = "list" if kind["_type"] == "List" else "large_list"
        if list(inner) == ["struct"]:
            return {name: inner["struct"], **rest}
        return {name: inner["dtype"] if list(inner) == ["dtype"] else inner, **rest}
    if kind["_type"] == "Value":
        return {"dtype": rest.pop("dtype"), **rest}
    if kind["_type"] == "ClassLabel":
        return {"dtype": {"class_label": {"names": {str(number): name for number, name in enumerate(rest["names"])}}}}
    name = _snake(kind["_type"])
    return {"dtype": {name: rest}} if rest else {"dtype": name}


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
