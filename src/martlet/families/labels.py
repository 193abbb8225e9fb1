"""Labels of a classification head in a config.json: their number and their names, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from martlet.errors import ConfigError

DEFAULT_NUM_LABELS = 2  # Hugging Face leaves id2label out of the file at two labels without names


def read_id2label(values: Mapping[str, Any]) -> dict[int, str]:
    """Names by number, 0 upwards. ConfigError where the numbers have holes."""
    found = values.get("id2label")
    if found is None:
        count = values.get("num_labels", values.get("_num_labels"))
        count = DEFAULT_NUM_LABELS if count is None else count
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ConfigError("config", "num_labels must be a whole number of at least 1", found=repr(count))
        return default_names(count)
    if not isinstance(found, Mapping) or not found:
        raise ConfigError("config", "id2label must be an object of numbers and names", found=repr(found))
    try:
        names = {int(number): str(name) for number, name in found.items()}
    except (TypeError, ValueError) as error:
        raise ConfigError("config", "the keys of id2label must be whole numbers", found=repr(found)[:80]) from error
    if sorted(names) != list(range(len(found))):
        raise ConfigError("config", f"id2label must number its {len(found)} labels from 0", found=sorted(names)[:12])
    return dict(sorted(names.items()))


def read_label2id(values: Mapping[str, Any]) -> dict[str, int]:
    """Numbers by name: the file's own, or `id2label` turned round."""
    found = values.get("label2id")
    if isinstance(found, Mapping) and found:
        return {str(name): int(number) for name, number in found.items()}
    return {name: number for number, name in read_id2label(values).items()}


def default_names(count: int) -> dict[int, str]:
    return {number: f"LABEL_{number}" for number in range(count)}


def with_labels(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with `changes`, in which the number of labels, their names and the way back agree.

    ConfigError where the changes contradict each other.
    """
    changed = {**values, **changes}
    named = {key for key in ("num_labels", "id2label", "label2id") if changes.get(key) is not None}
    if not named:
        return changed
    if "id2label" in named:
        names = read_id2label(changed)
    elif "label2id" in named:
        names = read_id2label({"id2label": {number: name for name, number in changes["label2id"].items()}})
    else:
        kept = read_id2label(values)
        names = kept if len(kept) == changes["num_labels"] else read_id2label({"num_labels": changes["num_labels"]})
    if "num_labels" in named and len(names) != changes["num_labels"]:
        raise ConfigError("config", f"num_labels is {changes['num_labels']}", found=f"{len(names)} names of labels")
    numbers = dict(changes["label2id"]) if "label2id" in named else {name: number for number, name in names.items()}
    if {int(number) for number in numbers.values()} - set(names):
        raise ConfigError("config", "label2id must number labels of id2label", found=repr(numbers)[:80])
    changed.pop("num_labels", None)
    return changed | {"id2label": names, "label2id": numbers}
