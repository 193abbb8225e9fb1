"""Kinds of Hugging Face's library that are not read here: each says so when it is made."""

from __future__ import annotations

from typing import Any

from martlet.errors import UnsupportedError


class _Absent:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        remedy = "Keep the files as Value('binary'), or their paths as Value('string'), and decode in map."
        raise UnsupportedError(f"feature {type(self).__name__}", "is not there", remedy=remedy)


class _Script:
    """What dataset scripts are made of: they are not run."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if cls.__mro__[1] is not _Script:
            cls._refuse()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._refuse()

    @classmethod
    def _refuse(cls) -> None:
        remedy = "Dataset.from_generator(function), or IterableDataset.from_generator, makes a dataset of its rows."
        raise UnsupportedError(f"{cls.__mro__[-3].__name__}", "is not there: no scripts are run", remedy=remedy)


class GeneratorBasedBuilder(_Script):
    """A script's builder by rows: not there."""


class ArrowBasedBuilder(_Script):
    """A script's builder by tables: not there."""


class SplitGenerator(_Script):
    """A script's split: not there."""


class DownloadManager(_Script):
    """What fetches a script's files: not there."""


class StreamingDownloadManager(_Script):
    """What opens a script's files: not there."""


class Video(_Absent):
    """Moving pictures: not there."""


class Pdf(_Absent):
    """Documents: not there."""


class Nifti(_Absent):
    """Scans: not there."""


class Mesh(_Absent):
    """Solids: not there."""


class BioSequence(_Absent):
    """Genes: not there."""


class BioStructure(_Absent):
    """Proteins: not there."""


ABSENT = {kind.__name__: kind for kind in (Video, Pdf, Nifti, Mesh, BioSequence, BioStructure)}
