"""The public names of martlet.datasets, and what importing it costs."""

import subprocess
import sys

import PIL.Image
import pyarrow as pa
import pytest

import martlet.datasets
from martlet.datasets import Dataset, Features
from martlet.errors import MissingNameError

NAMES = [
    *(
        "Array2D",
        "Array3D",
        "Array4D",
        "Array5D",
        "Audio",
        "ClassLabel",
        "Column",
        "Dataset",
        "DatasetInfo",
        "Features",
    ),
    *("Image", "Json", "LargeList", "List", "NamedSplit", "Sequence", "Split", "SplitDict", "SplitInfo", "Translation"),
    *("TranslationVariableLanguages", "Value", "DatasetDict", "concatenate_datasets", "interleave_datasets"),
    *("load_from_disk", "enable_caching", "disable_caching", "is_caching_enabled", "enable_progress_bars"),
    "disable_progress_bars",
]


def test_public_names():
    assert set(NAMES) <= set(martlet.datasets.__all__)
    for name in martlet.datasets.__all__:
        assert getattr(martlet.datasets, name) is not None


def test_importing_loads_nothing_heavy():
    heavy = ("torch", "transformers", "pandas", "polars", "duckdb", "PIL", "datasets", "pyarrow")
    code = f"import sys, martlet.datasets; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
    code = (
        f"import sys; from martlet.datasets import Dataset; print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "['pyarrow']"


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("arrow_dataset", "Dataset, Column, concatenate_datasets"),
        ("arrow_reader", "ReadInstruction"),
        ("arrow_writer", "ArrowWriter"),
        ("builder", "DatasetBuilder, BuilderConfig, GeneratorBasedBuilder"),
        ("dataset_dict", "DatasetDict, IterableDatasetDict"),
        ("download", "DownloadConfig, DownloadMode, DownloadManager"),
        ("download.download_manager", "DownloadMode"),
        ("features.features", "Features, Value, Sequence"),
        ("features.image", "Image"),
        ("inspect", "get_dataset_split_names"),
        ("load", "load_dataset, load_dataset_builder, load_from_disk"),
        ("splits", "Split, NamedSplit, SplitGenerator"),
        ("table", "table_cast, concat_tables, embed_table_storage"),
        ("utils", "tqdm, Version"),
        ("utils.tqdm", "tqdm"),
        ("utils.info_utils", "VerificationMode"),
        ("utils.version", "Version"),
    ],
)
def test_module_paths_of_scripts(path, names):
    for name in names.split(", "):
        scope = {}
        exec(f"from martlet.datasets.{path} import {name}", scope)
        assert scope[name] is getattr(martlet.datasets, name, scope[name])


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("from martlet.datasets.table import InMemoryTable", "Dataset.table. takes either"),
        ("from martlet.datasets.iterable_dataset import ExamplesIterable", "from_generator"),
        ("from martlet.datasets.packaged_modules.csv.csv import CsvConfig", "data_files="),
        ("from martlet.datasets.data_files import DataFilesDict", "data_files="),
        ("from martlet.datasets.features.features import require_decoding", "inside of datasets"),
        ("from martlet.datasets import percent", "takes a share"),
        ("import martlet.datasets.utils.py_utils", "inside of datasets"),
    ],
)
def test_what_is_not_here_says_what_is(line, remedy):
    with pytest.raises(MissingNameError, match=remedy):
        exec(line, {})


def test_no_such_module_and_attribute_are_pythons_own_errors():
    with pytest.raises(ModuleNotFoundError):
        exec("import martlet.datasets.nope", {})
    assert not hasattr(martlet.datasets.load, "nope") and not hasattr(martlet.datasets, "nope")


def test_tables_are_cast_joined_and_filled(tmp_path):
    from martlet.datasets.table import concat_tables, embed_table_storage, table_cast

    table = pa.table({"a": [1, 2]})
    assert table_cast(table, pa.schema({"a": pa.string()})).to_pydict() == {"a": ["1", "2"]}
    assert concat_tables([table, table]).num_rows == 4
    assert concat_tables([table, pa.table({"b": [3, 4]})], axis=1).to_pydict() == {"a": [1, 2], "b": [3, 4]}
    PIL.Image.new("L", (2, 2)).save(tmp_path / "a.png")
    features = Features({"image": martlet.datasets.Image(decode=False)})
    ds = Dataset.from_dict({"image": [str(tmp_path / "a.png")]}, features=features)
    filled = ds.with_format("arrow").map(embed_table_storage, batched=True).with_format(None)
    assert filled[0]["image"] == {"bytes": (tmp_path / "a.png").read_bytes(), "path": "a.png"}


def test_rows_are_written_one_after_the_other(tmp_path):
    from martlet.datasets.arrow_writer import ArrowWriter

    with ArrowWriter(path=str(tmp_path / "a.arrow"), writer_batch_size=2) as writer:
        for number in range(5):
            writer.write({"a": number, "b": None if number < 2 else "x"} if number else {"a": 0, "b": "y"})
        writer.write_batch({"a": [7, 8], "b": ["p", "q"]})
        writer.write_table(pa.table({"a": [9], "b": ["r"]}))
        rows, num_bytes = writer.finalize()
    ds = Dataset.from_file(str(tmp_path / "a.arrow"))
    assert ds["a"][:] == [0, 1, 2, 3, 4, 7, 8, 9] and rows == len(ds) and num_bytes > 0
    features = Features({"a": martlet.datasets.Value("int8")})
    with ArrowWriter(features=features, path=str(tmp_path / "b.arrow")) as writer:
        assert writer.finalize() == (0, 0)
    assert Dataset.from_file(str(tmp_path / "b.arrow")).features == features


def test_bars_are_turned_off():
    martlet.datasets.disable_progress_bars()
    try:
        assert list(martlet.datasets.tqdm(range(3))) == [0, 1, 2] and martlet.datasets.tqdm(range(3)).disable
    finally:
        martlet.datasets.enable_progress_bars()


def test_hashers_take_values_one_by_one():
    from martlet.datasets.fingerprint import Hasher

    made = []
    for values in (("a", 1), ("a", 2), ("a", 1)):
        hasher = Hasher()
        for value in values:
            hasher.update(value)
        made.append(hasher.hexdigest())
    assert made[0] == made[2] != made[1] and len(made[0]) == 16
