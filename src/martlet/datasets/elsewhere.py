"""Module paths of Hugging Face's library that scripts import names from, beside those that are files here.

`martlet.datasets.features.features` and the like are made as they are asked for and hold martlet's names; a name that
is not here is a MissingNameError, which is an ImportError, that says what there is in its place.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

ROOM = "martlet.datasets"
# its modules of public names that are no files here
NAMES = frozenset(
    [
        *("arrow_reader", "download", "inspect"),
        *("download.download_config", "download.download_manager", "download.streaming_download_manager"),
        *("features.audio", "features.features", "features.image", "features.translation"),
        *("utils.info_utils", "utils.version"),
    ]
)
# files here that are its files too, and so are asked for names that are not here
FILES = frozenset(
    [
        *("", "arrow_dataset", "arrow_writer", "builder", "combine", "dataset_dict", "exceptions", "features"),
        *("fingerprint", "formatting", "info", "iterable_dataset", "load", "search", "splits", "table", "utils"),
    ]
)
# its insides
INSIDES = frozenset(
    [
        *("commands", "data_files", "experimental", "filesystems", "io", "keyhash", "naming", "packaged_modules"),
        *("parallel", "streaming", "utils.deprecation_utils", "utils.file_utils", "utils.filelock", "utils.hub"),
        *("utils.metadata", "utils.patching", "utils.py_utils", "utils.sharding", "utils.typing"),
    ]
)
_TABLES = "ds.data is a martlet.datasets.table.Table, ds.data.table pyarrow's own; Dataset(table) takes either."
_ROWS = "Dataset.from_generator(function), or IterableDataset.from_generator, makes a dataset of a function's rows."
_FILES = "load_dataset(format, data_files=, ...) takes paths, patterns and each format's options."
REMEDIES = {
    **dict.fromkeys(("InMemoryTable", "MemoryMappedTable", "ConcatenationTable"), _TABLES),
    **dict.fromkeys(("ExamplesIterable", "ArrowExamplesIterable", "SplitGeneratorInfo"), _ROWS),
    **dict.fromkeys(("DataFilesDict", "DataFilesList", "DataFilesPatternsDict", "get_data_patterns"), _FILES),
    "dataset_module_factory": "load_dataset_builder(path) finds a dataset and reads no row.",
    "DatasetInfosDict": "get_dataset_infos(path) gives a dict of DatasetInfo.",
    "percent": 'split="train[10%:20%]" takes a share.',
    "get_formatter": "ds.with_format(type) gives rows in a format.",
    "commands": "The command line is `martlet`.",
    "data_files": _FILES,
    "packaged_modules": _FILES,
    "FaissIndex": "ds.add_faiss_index(column) makes an index.",
}


class Elsewhere:
    """Finds the modules that are no files.

    `from martlet.datasets.load import Name` asks for a module of a name that is no attribute: there MissingNameError.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A module of names, for a path that Hugging Face's library has. MissingNameError for what is not here."""
        name = fullname.removeprefix(f"{ROOM}.")
        if name == fullname:
            return None
        if name in NAMES:
            return ModuleSpec(fullname, self, is_package=True)  # type: ignore[arg-type]
        home, _, last = name.rpartition(".")
        inside = name in INSIDES or home in NAMES or (home in FILES and home != "")
        if not inside and not (home == "" and last in REMEDIES):
            return None
        from martlet.errors import MissingNameError

        remedy = REMEDIES.get(last, "It is of the inside of datasets; docs/datasets.md says what is here.")
        raise MissingNameError(fullname, "is not here", remedy=remedy)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Made of names alone."""
        return _Names(spec.name, "martlet's names under a module's name of Hugging Face's.")

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is run: names are looked up as they are asked for."""


class _Names(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return public(self.__name__, name)


def public(module: str, name: str) -> Any:
    """A public name of the library, asked of a module that it is not in. AttributeError where it is none."""
    room = import_module(ROOM)
    if name in room.__all__:
        return getattr(room, name)
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


def install() -> None:
    """Lets the modules be imported."""
    if not any(isinstance(finder, Elsewhere) for finder in sys.meta_path):
        sys.meta_path.append(Elsewhere())
