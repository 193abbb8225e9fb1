"""Which format reads which file, and how one is made from a user's keywords."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from martlet.datasets.files import DataFile
from martlet.datasets.sources.csv import Csv
from martlet.datasets.sources.folder import METADATA, AudioFolder, ImageFolder
from martlet.datasets.sources.json import Json
from martlet.datasets.sources.media import AUDIO, IMAGES
from martlet.datasets.sources.parquet import Arrow, Parquet
from martlet.datasets.sources.source import Source, log
from martlet.datasets.sources.sql import Sql
from martlet.datasets.sources.text import Text
from martlet.datasets.sources.webdataset import WebDataset
from martlet.errors import ArgumentError, DataFileError, UnsupportedError

SOURCES: dict[str, type[Source]] = {
    source.kind: source for source in (Csv, Json, Parquet, Arrow, Text, Sql, WebDataset, ImageFolder, AudioFolder)
}
EXTENSIONS: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".ndjson": ("json", {}),
    ".parquet": ("parquet", {}),
    ".geoparquet": ("parquet", {}),
    ".arrow": ("arrow", {}),
    ".txt": ("text", {}),
    ".tar": ("webdataset", {}),
    **{ending: ("imagefolder", {}) for ending in IMAGES},
    **{ending: ("audiofolder", {}) for ending in AUDIO},
}
# formats Hugging Face's library reads and this one does not: named, so that the error can say so
ELSEWHERE = frozenset(
    [
        "pandas",
        "conll",
        "videofolder",
        "meshfolder",
        "pdffolder",
        "niftifolder",
        "xml",
        "hdf5",
        "eval",
        "lance",
        "tsfile",
        "iceberg",
        "vortex",
        "mmcif",
        "pdb",
        "genbank",
        "fasta",
        "fastq",
        "harbor",
        "spark",
        "cache",
    ]
)
# of two endings as frequent, the later one here wins
_FAVOURITES = (".csv", ".json", ".jsonl", ".arrow", ".parquet")
_OURS = {"types", "left", "said", "num_threads", "columns", "labels", "has_metadata", "json_paths", "described"}


def make_source(kind: str, options: dict[str, Any], *, num_threads: int | None = None) -> Source:
    """The format by name, with its options. ArgumentError for one it does not know, with the nearest name."""
    if kind not in SOURCES:
        if kind in ELSEWHERE:
            raise UnsupportedError(f"format {kind!r}", f"is not read here; those that are: {', '.join(SOURCES)}")
        raise ArgumentError("format", f"must be one of {', '.join(SOURCES)}", found=repr(kind))
    made = SOURCES[kind]
    hidden = _OURS - ({"columns"} if kind in ("parquet", "sql") else set())
    known = [field.name for field in fields(made) if field.name not in hidden]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise ArgumentError(
                f"load_dataset({kind!r})",
                f"takes no keyword {name!r}",
                found=f"those of this format are {', '.join(known)}",
                remedy=f"Is {near[0]!r} meant?" if near else "",
            )
    return made(**options, num_threads=num_threads)


def endings(file: DataFile | str) -> list[str]:
    """Every ending of a file's name, lower case: data.csv.gz has .csv and .gz."""
    name = file if isinstance(file, str) else file.name
    return [f".{part.lower()}" for part in name.rpartition("/")[2].split(".")[1:]]


def infer_kind(files: Iterable[DataFile]) -> tuple[str, dict[str, Any]] | None:
    """The format of most of the files, by their endings; archives that are not tars are looked into."""
    files = list(files)
    counts: Counter[str] = Counter()
    for file in files:
        if file.name in METADATA:
            continue
        if file.is_archive and not file.name.lower().endswith(".tar"):
            counts.update(ending for member in file.members() for ending in endings(member) if ending in EXTENSIONS)
        else:
            counts.update(ending for ending in endings(file) if ending in EXTENSIONS)
    if not counts:
        counts.update(ending for file in files for ending in endings(file) if ending in EXTENSIONS)
    if not counts:
        return None
    best = max(counts, key=lambda e: (counts[e], _FAVOURITES.index(e) if e in _FAVOURITES else -1, e))
    return EXTENSIONS[best]


def infer_kinds(files: dict[str, list[DataFile]], where: str) -> tuple[str, dict[str, Any]]:
    """The one format of all splits. DataFileError if there is none, or more than one."""
    found = {split: infer_kind(group) for split, group in files.items()}
    kinds = [kind for kind in found.values() if kind is not None]
    if not kinds:
        names = ", ".join(sorted({file.name for group in files.values() for file in group})[:6]) or "no files"
        raise DataFileError(
            where, "holds no data files of a known format", found=names, remedy="Name the format first."
        )
    if any(kind != kinds[0] for kind in found.values()):
        said = ", ".join(f"{split}: {kind[0] if kind else 'unknown'}" for split, kind in found.items())
        raise DataFileError(where, "must be of one format in all splits", found=said, remedy="Pass data_files=.")
    return kinds[0]


def files_of_kind(
    files: dict[str, list[DataFile]], chosen: tuple[str, dict[str, Any]], where: str
) -> dict[str, list[DataFile]]:
    """The files of the format that was inferred, archives and metadata; which data files are left out is said."""

    def is_of_kind(file: DataFile) -> bool:
        if file.is_archive or (chosen[0].endswith("folder") and file.name in METADATA):
            return True
        return any(EXTENSIONS.get(ending) == chosen for ending in endings(file))

    kept = {split: [file for file in group if is_of_kind(file)] for split, group in files.items()}
    left = [file for split, group in files.items() for file in group if file not in kept[split]]
    data = [file.name for file in left if any(ending in EXTENSIONS for ending in endings(file))]
    if data:
        what = "1 file of another format" if len(data) == 1 else f"{len(data)} files of other formats"
        log.warning("%s is read as %s: left out %s (%s, ...)", where, chosen[0], what, data[0])
    return kept
