"""martlet.datasets: load, shape, stream and feed data with the code people write for `datasets`. Arrow inside."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from martlet.datasets import elsewhere

# Names and the module each lives in, imported when first used: `import martlet.datasets` loads no pyarrow.
_MODULES = {
    "Array2D": "features",
    "Array3D": "features",
    "Array4D": "features",
    "Array5D": "features",
    "Audio": "features",
    "ClassLabel": "features",
    "Column": "column",
    "Dataset": "dataset",
    "DatasetDict": "dataset_dict",
    "DatasetInfo": "info",
    "Features": "features",
    "Image": "features",
    "IterableDataset": "iterable",
    "IterableDatasetDict": "iterable_dict",
    "Json": "features",
    "LargeList": "features",
    "List": "features",
    "NamedSplit": "splits",
    "ReadInstruction": "slicing",
    "Sequence": "features",
    "Split": "splits",
    "SplitDict": "splits",
    "SplitInfo": "splits",
    "Translation": "features",
    "TranslationVariableLanguages": "features",
    "Value": "features",
    "tokenize": "tokenizing",
    "tokenize_backend": "tokenizing",
    "DataCollatorForLanguageModeling": "collators",
    "DataCollatorForMultipleChoice": "collators",
    "DataCollatorForSeq2Seq": "collators",
    "DataCollatorForTokenClassification": "collators",
    "DataCollatorWithFlattening": "collators",
    "DataCollatorWithPadding": "collators",
    "DefaultDataCollator": "collators",
    "default_data_collator": "collators",
    "ArrowBasedBuilder": "absent",
    "BioSequence": "absent",
    "DownloadManager": "absent",
    "GeneratorBasedBuilder": "absent",
    "SplitGenerator": "absent",
    "StreamingDownloadManager": "absent",
    "BioStructure": "absent",
    "Mesh": "absent",
    "Nifti": "absent",
    "Pdf": "absent",
    "Video": "absent",
    "BuilderConfig": "builder",
    "DatasetBuilder": "builder",
    "load_dataset_builder": "builder",
    "DownloadConfig": "modes",
    "DownloadMode": "modes",
    "VerificationMode": "modes",
    "Version": "version",
    "IterableColumn": "column",
    "are_progress_bars_disabled": "progress",
    "disable_progress_bar": "progress",
    "enable_progress_bar": "progress",
    "is_progress_bar_enabled": "progress",
    "get_dataset_config_info": "hub",
    "concatenate_datasets": "combine",
    "disable_caching": "cache",
    "disable_progress_bars": "progress",
    "enable_caching": "cache",
    "enable_progress_bars": "progress",
    "get_dataset_config_names": "hub",
    "get_dataset_default_config_name": "hub",
    "get_dataset_infos": "hub",
    "get_dataset_split_names": "hub",
    "interleave_datasets": "combine",
    "is_caching_enabled": "cache",
    "list_datasets": "hub",
    "load_dataset": "load",
    "load_from_disk": "saving",
    "split_dataset_by_node": "distributed",
    "tqdm": "utils.tqdm",
}

# Modules of Hugging Face's, reached as attributes: `datasets.utils.logging.set_verbosity_error()`.
_PLACES = {
    "logging": "utils.logging",
    **{
        name: name
        for name in (
            *(
                "arrow_dataset",
                "arrow_writer",
                "config",
                "distributed",
                "exceptions",
                "fingerprint",
                "iterable_dataset",
            ),
            *("table", "utils"),
        )
    },
}

__all__ = sorted(_MODULES)

if TYPE_CHECKING:
    from martlet.datasets.absent import (
        ArrowBasedBuilder,
        BioSequence,
        BioStructure,
        DownloadManager,
        GeneratorBasedBuilder,
        Mesh,
        Nifti,
        Pdf,
        SplitGenerator,
        StreamingDownloadManager,
        Video,
    )
    from martlet.datasets.builder import BuilderConfig, DatasetBuilder, load_dataset_builder
    from martlet.datasets.cache import disable_caching, enable_caching, is_caching_enabled
    from martlet.datasets.collators import (
        DataCollatorForLanguageModeling,
        DataCollatorForMultipleChoice,
        DataCollatorForSeq2Seq,
        DataCollatorForTokenClassification,
        DataCollatorWithFlattening,
        DataCollatorWithPadding,
        DefaultDataCollator,
        default_data_collator,
    )
    from martlet.datasets.column import Column, IterableColumn
    from martlet.datasets.combine import concatenate_datasets, interleave_datasets
    from martlet.datasets.dataset import Dataset
    from martlet.datasets.dataset_dict import DatasetDict
    from martlet.datasets.distributed import split_dataset_by_node
    from martlet.datasets.features import (
        Array2D,
        Array3D,
        Array4D,
        Array5D,
        Audio,
        ClassLabel,
        Features,
        Image,
        Json,
        LargeList,
        List,
        Sequence,
        Translation,
        TranslationVariableLanguages,
        Value,
    )
    from martlet.datasets.hub import (
        get_dataset_config_info,
        get_dataset_config_names,
        get_dataset_default_config_name,
        get_dataset_infos,
        get_dataset_split_names,
        list_datasets,
    )
    from martlet.datasets.info import DatasetInfo
    from martlet.datasets.iterable import IterableDataset
    from martlet.datasets.iterable_dict import IterableDatasetDict
    from martlet.datasets.load import load_dataset
    from martlet.datasets.modes import DownloadConfig, DownloadMode, VerificationMode
    from martlet.datasets.progress import (
        are_progress_bars_disabled,
        disable_progress_bar,
        disable_progress_bars,
        enable_progress_bar,
        enable_progress_bars,
        is_progress_bar_enabled,
    )
    from martlet.datasets.saving import load_from_disk
    from martlet.datasets.slicing import ReadInstruction
    from martlet.datasets.splits import NamedSplit, Split, SplitDict, SplitInfo
    from martlet.datasets.tokenizing import tokenize, tokenize_backend
    from martlet.datasets.utils.tqdm import tqdm
    from martlet.datasets.version import Version


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return import_module(f"martlet.datasets.{_PLACES[name]}")
    if name in elsewhere.REMEDIES:
        raise AttributeError(f"module 'martlet.datasets' has no attribute {name!r}. {elsewhere.REMEDIES[name]}")
    if name not in _MODULES:
        raise AttributeError(f"module 'martlet.datasets' has no attribute {name!r}")
    value = getattr(import_module(f"martlet.datasets.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_PLACES})


elsewhere.install()
