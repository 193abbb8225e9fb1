"""The public names of martlet.datasets, and what importing it costs."""

import subprocess
import sys

import martlet.datasets

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
