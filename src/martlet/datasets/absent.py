"""Kinds of Hugging Face's library that are not read here: each says so when it is made."""

from __future__ import annotations

from typing import Any

from martlet.errors import UnsupportedError


class _Absent:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        remedy = "Keep the files as Value('binary'), or their paths as Value('string'), and decode in map."
        raise UnsupportedError(f"feature {type(self).__name__}", "is not there", remedy=remedy)


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
