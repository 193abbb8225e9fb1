"""DatasetInfo: what is known of a dataset beside its rows."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from martlet.datasets import elsewhere
from martlet.datasets.features import Features
from martlet.datasets.splits import SplitDict
from martlet.datasets.version import Version
from martlet.formats.files import read_json

INFO_FILE, LICENSE_FILE = "dataset_info.json", "LICENSE"


@dataclass(repr=False)
class DatasetInfo:
    """Description, licence, features and sizes of a dataset; its JSON is Hugging Face's dataset_info.json."""

    description: str = ""
    citation: str = ""
    homepage: str = ""
    license: str = ""
    features: Features | Any = None
    post_processed: Any = None
    supervised_keys: Any = None
    builder_name: str | None = None
    dataset_name: str | None = None
    config_name: str | None = None
    version: Any = None
    splits: SplitDict | Any = None
    download_checksums: dict[str, Any] | None = None
    download_size: int | None = None
    post_processing_size: int | None = None
    dataset_size: int | None = None
    size_in_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.features is not None and not isinstance(self.features, Features):
            self.features = Features.from_dict(self.features)
        if self.splits is not None and not isinstance(self.splits, SplitDict):
            self.splits = SplitDict.from_split_dict(self.splits)
        if isinstance(self.version, str):
            self.version = Version(self.version)
        elif isinstance(self.version, Mapping):
            self.version = Version(self.version["version_str"], self.version.get("description"))

    @classmethod
    def from_dict(cls, dataset_info_dict: Mapping[str, Any]) -> DatasetInfo:
        """From the JSON form; keys that are not ours are left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in dataset_info_dict.items() if key in known})

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: what is not known is left out."""
        out: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "features" and value is not None:
                value = value.to_dict()
            elif field.name == "splits" and value is not None:
                value = {name: {**asdict(info), "_type": "SplitInfo"} for name, info in value.items()}
            elif isinstance(value, Version):
                value = value.to_dict()
            if value is not None:
                out[field.name] = copy.deepcopy(value)
        return out

    @classmethod
    def from_directory(cls, dataset_info_dir: str | os.PathLike[str]) -> DatasetInfo:
        """Reads dataset_info.json in a folder."""
        return cls.from_dict(read_json(Path(dataset_info_dir) / INFO_FILE))

    def write_to_directory(self, dataset_info_dir: str | os.PathLike[str], pretty_print: bool = False) -> None:
        """Writes dataset_info.json, and LICENSE if there is one."""
        folder = Path(dataset_info_dir)
        text = json.dumps(self.to_dict(), indent=4 if pretty_print else None)
        (folder / INFO_FILE).write_text(text, "utf-8")
        if self.license:
            (folder / LICENSE_FILE).write_text(self.license, "utf-8")

    @classmethod
    def from_merge(cls, dataset_infos: Iterable[DatasetInfo | None]) -> DatasetInfo:
        """The infos put together: texts one after another, each once."""
        infos = [info.copy() for info in dataset_infos if info is not None]
        if infos and all(info == infos[0] for info in infos):
            return infos[0]
        names = ("description", "citation", "homepage", "license")
        texts: dict[str, Any] = {
            name: "\n\n".join(dict.fromkeys(getattr(info, name) for info in infos)).strip() for name in names
        }
        return cls(**texts)

    def update(self, other_dataset_info: DatasetInfo, ignore_none: bool = True) -> None:
        """Takes over the other's fields, but for those it does not know."""
        for field in fields(self):
            value = getattr(other_dataset_info, field.name)
            if value is not None or not ignore_none:
                setattr(self, field.name, copy.deepcopy(value))

    def copy(self) -> DatasetInfo:
        """A deep copy."""
        return copy.deepcopy(self)

    def __repr__(self) -> str:
        known = ((field.name, getattr(self, field.name)) for field in fields(self))
        return f"DatasetInfo({', '.join(f'{name}={value!r}' for name, value in known if value)})"


def of_info(name: str, doc: str) -> Any:
    """A property of a dataset that is a field of its `info`."""
    return property(lambda self: getattr(self._info, name), doc=doc)


__path__: list[str] = []  # what is asked of it and is not here is elsewhere's to answer

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return elsewhere.public(__name__, name)
