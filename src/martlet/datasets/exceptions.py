"""Hugging Face's names of the errors, for `except`: each is the error that is raised here where theirs would be."""

from martlet.errors import DataFileError, DatasetNotFoundError, FeatureError, MartletError

DatasetsError = MartletError
DataFilesNotFoundError = DatasetNotFoundError
FileNotFoundDatasetsError = DatasetNotFoundError
DatasetBuildError = DataFileError
DatasetGenerationError = DataFileError
DatasetGenerationCastError = FeatureError
NonMatchingSplitsSizesError = DataFileError
ExpectedMoreSplitsError = DataFileError
UnexpectedSplitsError = DataFileError

__all__ = [
    "DataFilesNotFoundError",
    "DatasetBuildError",
    "DatasetGenerationCastError",
    "DatasetGenerationError",
    "DatasetNotFoundError",
    "DatasetsError",
    "ExpectedMoreSplitsError",
    "FileNotFoundDatasetsError",
    "NonMatchingSplitsSizesError",
    "UnexpectedSplitsError",
]
