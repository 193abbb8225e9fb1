"""DatasetDict: splits by name; a verb is done to each."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from martlet.datasets import elsewhere, pushing
from martlet.datasets.arguments import verb
from martlet.datasets.dataset import Dataset
from martlet.datasets.saving import DICT_FILE, _put, save_to_disk
from martlet.errors import ArgumentError, MartletError, SaveError
from martlet.formats.files import save_error

# Files and seeds of each split are given as {split: value}.
_PER_SPLIT = {
    "cache_file_name": "cache_file_names",
    "indices_cache_file_name": "indices_cache_file_names",
    "seed": "seeds",
    "generator": "generators",
}
_OF_ONE = ("suffix_template", "new_fingerprint")  # what two splits cannot share


class DatasetDict(dict[str, Dataset]):
    """Datasets by the name of their split. `map`, `filter`, `shuffle`, ... are done to each, alike."""

    def _each(self, call: Callable[[str, Dataset], Any]) -> DatasetDict:
        self._check()
        return type(self)({name: call(name, dataset) for name, dataset in self.items()})

    def _check(self) -> None:
        for name, dataset in self.items():
            if type(dataset) is not Dataset:
                raise ArgumentError(f"split {name!r}", "must be a Dataset", found=type(dataset).__name__)

    def __getitem__(self, key: Any) -> Dataset:
        if key in self:
            return super().__getitem__(key)
        splits = ", ".join(map(repr, self))
        if not isinstance(key, str):
            example = next(iter(self), "train")
            raise KeyError(f"{key!r} is no split; the splits are {splits}. Did you mean ds[{example!r}][{key!r}]?")
        raise KeyError(f"{key!r} is no split; the splits are {splits}")

    @property
    def data(self) -> dict[str, Any]:
        """The Arrow table of each split."""
        return {name: dataset.data for name, dataset in self.items()}

    @property
    def cache_files(self) -> dict[str, list[dict[str, str]]]:
        """The files of each split."""
        return {name: dataset.cache_files for name, dataset in self.items()}

    @property
    def num_columns(self) -> dict[str, int]:
        """Columns of each split."""
        return {name: dataset.num_columns for name, dataset in self.items()}

    @property
    def num_rows(self) -> dict[str, int]:
        """Rows of each split."""
        return {name: dataset.num_rows for name, dataset in self.items()}

    @property
    def column_names(self) -> dict[str, list[str]]:
        """Names of the columns of each split."""
        return {name: dataset.column_names for name, dataset in self.items()}

    @property
    def shape(self) -> dict[str, tuple[int, int]]:
        """(rows, columns) of each split."""
        return {name: dataset.shape for name, dataset in self.items()}

    def unique(self, column: str) -> dict[str, list[Any]]:
        """The different values of a column, of each split."""
        return {name: dataset.unique(column) for name, dataset in self.items()}

    def cleanup_cache_files(self) -> dict[str, int]:
        """Removes from the cache what maps and filters made of each split, but what it is in; their number."""
        return {name: dataset.cleanup_cache_files() for name, dataset in self.items()}

    @contextlib.contextmanager
    def formatted_as(
        self, type: str | None = None, columns: Any = None, output_all_columns: bool = False, **format_kwargs: Any
    ) -> Iterator[None]:
        """Another format within a `with` block."""
        with contextlib.ExitStack() as stack:
            for dataset in self.values():
                stack.enter_context(dataset.formatted_as(type, columns, output_all_columns, **format_kwargs))
            yield

    def set_format(
        self, type: str | None = None, columns: Any = None, output_all_columns: bool = False, **format_kwargs: Any
    ) -> None:
        """From now on rows of all splits are handed out in a format."""
        for dataset in self.values():
            dataset.set_format(type, columns, output_all_columns, **dict(format_kwargs))

    def reset_format(self) -> None:
        """From now on rows of all splits are Python objects."""
        for dataset in self.values():
            dataset.reset_format()

    @verb
    def set_transform(
        self, transform: Callable[..., Any] | None, columns: Any = None, output_all_columns: bool = False
    ) -> None:
        """From now on batches of all splits go through `transform`."""
        for dataset in self.values():
            dataset.set_transform(transform, columns, output_all_columns)

    @staticmethod
    def from_csv(
        path_or_paths: Mapping[str, Any],
        features: Any = None,
        cache_dir: str | None = None,
        keep_in_memory: bool = False,
        **kwargs: Any,
    ) -> DatasetDict:
        """Splits of CSV files, {split: paths}; what else is taken is as of load_dataset("csv")."""
        return _of_files("csv", path_or_paths, features, cache_dir, keep_in_memory, kwargs)

    @staticmethod
    def from_json(
        path_or_paths: Mapping[str, Any],
        features: Any = None,
        cache_dir: str | None = None,
        keep_in_memory: bool = False,
        **kwargs: Any,
    ) -> DatasetDict:
        """Splits of JSON or JSON Lines files, {split: paths}; what else is taken is as of load_dataset("json")."""
        return _of_files("json", path_or_paths, features, cache_dir, keep_in_memory, kwargs)

    @staticmethod
    def from_parquet(
        path_or_paths: Mapping[str, Any],
        features: Any = None,
        cache_dir: str | None = None,
        keep_in_memory: bool = False,
        columns: list[str] | None = None,
        **kwargs: Any,
    ) -> DatasetDict:
        """Splits of Parquet files, {split: paths}; `columns` are those to read."""
        options = {"columns": columns, **kwargs}
        return _of_files("parquet", path_or_paths, features, cache_dir, keep_in_memory, options)

    @staticmethod
    def from_text(
        path_or_paths: Mapping[str, Any],
        features: Any = None,
        cache_dir: str | None = None,
        keep_in_memory: bool = False,
        **kwargs: Any,
    ) -> DatasetDict:
        """Splits of text files, {split: paths}; what else is taken is as of load_dataset("text")."""
        return _of_files("text", path_or_paths, features, cache_dir, keep_in_memory, kwargs)

    push_to_hub = pushing.push_to_hub

    @verb
    def save_to_disk(
        self,
        dataset_dict_path: str | os.PathLike[str],
        max_shard_size: str | int | None = None,
        num_shards: Mapping[str, int] | None = None,
        num_proc: int | None = None,
        storage_options: dict[str, Any] | None = None,
    ) -> None:
        """Writes a folder with a folder for each split, put in its place when it is whole."""
        shards = dict(num_shards or {})
        if strange := sorted(set(shards) - set(self)):
            raise ArgumentError("save_to_disk()", f"the splits are {', '.join(self)}", found=", ".join(strange))
        if "://" in os.fspath(dataset_dict_path):
            self._save_remotely(os.fspath(dataset_dict_path), max_shard_size, shards, storage_options)
            return
        folder = Path(dataset_dict_path)
        aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
        try:
            aside.mkdir(parents=True)
            for name, dataset in self.items():
                save_to_disk(dataset, aside / name, max_shard_size, shards.get(name), num_proc)
            (aside / DICT_FILE).write_text(json.dumps({"splits": list(self)}), "utf-8")
            _put(aside, folder)
        except OSError as problem:
            shutil.rmtree(aside, ignore_errors=True)
            if isinstance(problem, SaveError):  # it names the folder beside the one that was asked for
                raise SaveError(
                    os.fspath(folder), problem.rule, found=problem.found, remedy=problem.remedy
                ) from problem
            if isinstance(problem, MartletError):
                raise
            raise save_error(folder, problem) from problem
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise

    def _save_remotely(self, url: str, max_shard_size: Any, shards: dict[str, int], storage_options: Any) -> None:
        import fsspec

        for name, dataset in self.items():
            save_to_disk(dataset, f"{url}/{name}", max_shard_size, shards.get(name), None, storage_options)
        with fsspec.open(f"{url}/{DICT_FILE}", "w", **(storage_options or {})) as file:
            file.write(json.dumps({"splits": list(self)}))

    @staticmethod
    def load_from_disk(
        dataset_dict_path: str | os.PathLike[str],
        keep_in_memory: bool | None = None,
        storage_options: dict[str, Any] | None = None,
    ) -> DatasetDict:
        """What `save_to_disk` of either library wrote of a DatasetDict."""
        from martlet.datasets.saving import load_from_disk

        found = load_from_disk(dataset_dict_path, keep_in_memory, storage_options)
        if not isinstance(found, DatasetDict):
            remedy = "Take Dataset.load_from_disk or load_from_disk."
            raise ArgumentError(os.fspath(dataset_dict_path), "holds one dataset, not splits", remedy=remedy)
        return found

    def plan(self) -> str:
        """What will run for each split, and what is cached under which key."""
        return "\n".join(f"{name}:\n{dataset.plan()}" for name, dataset in self.items())

    def __enter__(self) -> DatasetDict:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def __repr__(self) -> str:
        inner = "\n".join(f"{name}: {dataset!r}" for name, dataset in self.items())
        return "DatasetDict({\n    " + inner.replace("\n", "\n    ") + "\n})"

    def _repr_html_(self) -> str:
        return "".join(f"<h4>{name}</h4>{dataset._repr_html_()}" for name, dataset in self.items())


def _of_files(
    kind: str, paths: Any, features: Any, cache_dir: str | None, keep_in_memory: bool, options: dict[str, Any]
) -> DatasetDict:
    from martlet.datasets.load import load_dataset

    return DatasetDict(
        load_dataset(
            kind, data_files=paths, features=features, cache_dir=cache_dir, keep_in_memory=keep_in_memory, **options
        )
    )


@dataclass(frozen=True)
class WithSplit:
    """A function that is told the split after its other arguments."""

    function: Callable[..., Any]
    split: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls it."""
        return self.function(*args, self.split, **kwargs)


def _signature(name: str, method: Callable[..., Any]) -> inspect.Signature:
    """What a verb takes when it is done to each split: Dataset's keywords, those of one split as {split: value}."""
    parameters, last = [], []
    for parameter in inspect.signature(method).parameters.values():
        many = _PER_SPLIT.get(parameter.name)
        if parameter.name in _OF_ONE:
            continue
        parameters.append(parameter if many is None else parameter.replace(name=many, default=None))
        if parameter.name == "seed":
            parameters.append(parameter)
        elif parameter.name == "generator":
            last.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        elif parameter.name == "with_rank" and name == "map":
            parameters.append(parameter.replace(name="with_split", default=False))
    return inspect.Signature(sorted([*parameters, *last], key=lambda parameter: parameter.kind))


def _done_to_each(name: str) -> Any:
    """A verb of Dataset, done to each split. {split: value} is taken for files and seeds."""
    method = getattr(Dataset, name)
    signature = _signature(name, method)
    loose = [p.name for p in signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]

    @functools.wraps(method)
    def each(self: DatasetDict, *args: Any, **kwargs: Any) -> DatasetDict:
        given = dict(signature.bind(self, *args, **kwargs).arguments)
        given.pop("self")
        for key in loose:
            given.update(given.pop(key, {}))
        with_split = given.pop("with_split", False)
        several = {}
        for one, many in _PER_SPLIT.items():
            if given.get(many) is not None and given.get(one) is not None:
                raise ArgumentError(f"{name}()", f"takes {many} or {one}, not both")
            values = given.pop(many, None)
            if isinstance(given.get(one), Mapping):
                values = given.pop(one)
            if values is not None:
                several[one] = values if isinstance(values, Mapping) else dict.fromkeys(self, values)

        def call(split: str, dataset: Dataset) -> Any:
            own = {key: values[split] for key, values in several.items() if split in values}
            if with_split:
                own["function"] = WithSplit(given["function"], split)
            return method(dataset, **{**given, **own})

        return self._each(call)

    each.__signature__ = signature  # type: ignore[attr-defined]
    return verb(each)


for _name in (
    *("map", "filter", "sort", "shuffle", "flatten", "flatten_indices", "cast", "cast_column", "remove_columns"),
    *("rename_column", "rename_columns", "select_columns", "class_encode_column", "with_format", "with_transform"),
    "align_labels_with_mapping",
):
    setattr(DatasetDict, _name, _done_to_each(_name))


__path__: list[str] = []  # what is asked of it and is not here is elsewhere's to answer

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return elsewhere.public(__name__, name)
