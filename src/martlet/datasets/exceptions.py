"""Hugging Face's names of the errors, for `except`: each is the error that is raised here where theirs would be."""

from typing import TYPE_CHECKING, Any

from martlet.datasets import elsewhere
from martlet.errors import DataFileError, DatasetNotFoundError, FeatureError, MapError, MartletError, UnsupportedError

DatasetsError = MartletError
DataFilesNotFoundError = DatasetNotFoundError
FileNotFoundDatasetsError = DatasetNotFoundError
DatasetBuildError = DataFileError
DatasetGenerationError = DataFileError
DatasetGenerationCastError = FeatureError
NonMatchingSplitsSizesError = DataFileError
SplitsVerificationError = DataFileError
FileFormatError = DataFileError
CastError = FeatureError
DatasetTransformationNotAllowedError = MapError
DefunctDatasetError = UnsupportedError
ManualDownloadError = UnsupportedError
ChecksumVerificationError = NonMatchingChecksumError = DataFileError
ExpectedMoreDownloadedFilesError = UnexpectedDownloadedFileError = DataFileError
ExpectedMoreSplitsError = DataFileError
UnexpectedSplitsError = DataFileError

__all__ = [
    "CastError",
    "ChecksumVerificationError",
    "DataFilesNotFoundError",
    "DatasetBuildError",
    "DatasetGenerationCastError",
    "DatasetGenerationError",
    "DatasetNotFoundError",
    "DatasetTransformationNotAllowedError",
    "DatasetsError",
    "DefunctDatasetError",
    "ExpectedMoreDownloadedFilesError",
    "ExpectedMoreSplitsError",
    "FileFormatError",
    "FileNotFoundDatasetsError",
    "ManualDownloadError",
    "NonMatchingChecksumError",
    "NonMatchingSplitsSizesError",
    "SplitsVerificationError",
    "UnexpectedDownloadedFileError",
    "UnexpectedSplitsError",
]


__path__: list[str] = []  # what is asked of it and is not here is elsewhere's to answer

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return elsewhere.public(__name__, name)
