"""A map's column keeps the kind it had only where nothing is lost, as Hugging Face's; verbs of splits."""

from decimal import Decimal
from typing import Any

import datasets as hf
import numpy as np
import pytest
import torch

import martlet.datasets as ours
from martlet.errors import ArgumentError, FeatureError, MapError

hf.disable_progress_bars()


def _kinds(lib: Any) -> dict[str, Any]:
    return {
        "int64": (lib.Value("int64"), [1, 2]),
        "int8": (lib.Value("int8"), [1, 2]),
        "float32": (lib.Value("float32"), [1.5, 2]),
        "list": (lib.List(lib.Value("int64")), [[1], [2]]),
        "texts": (lib.List(lib.Value("string")), [["a"], ["b"]]),
        "struct": ({"k": lib.Value("int64")}, [{"k": 1}, {"k": 2}]),
        "label": (lib.ClassLabel(names=["n", "p", "q"]), [0, 1]),
    }


def _mapped(lib: Any, kind: str, new: list[Any], batched: bool) -> Any:
    feature, rows = _kinds(lib)[kind]
    ds = lib.Dataset.from_dict({"a": rows}, features=lib.Features({"a": feature}))
    made = ds.map((lambda b: {"a": new}) if batched else (lambda r, i: {"a": new[i]}), not batched, batched=batched)
    return made.to_dict(), repr(made.features)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(
    ("kind", "new"),
    [
        ("int64", [0.5, 1.5]),
        ("int64", [1, 0.5]),
        ("int64", [1.0, 2.0]),
        ("int64", [True, False]),
        ("int64", [None, 3]),
        ("int64", [Decimal("1.5"), Decimal("2")]),
        ("int64", [np.float32(0.5), np.float32(2)]),
        ("int8", [300, 1]),
        ("float32", [1, 2]),
        ("list", [[0.5], [6]]),
        ("list", [[None, 1], []]),
        ("list", [b"x", b"y"]),
        ("texts", ["x", "y"]),
        ("struct", [{"k": 0.5}, {"k": 1}]),
        ("label", [0.5, 1.5]),
        ("label", [1.0, 2.0]),
        ("label", ["p", "q"]),
    ],
)
def test_what_is_returned_is_not_cut_to_the_kind_before(kind: str, new: list[Any], batched: bool) -> None:
    assert _mapped(ours, kind, new, batched) == _mapped(hf, kind, new, batched)


def test_fractions_in_later_rows_are_an_error_not_cut() -> None:
    ds = ours.Dataset.from_dict({"a": [2] * 1500 + [3] * 1500})
    with pytest.raises(MapError, match="float64"):
        _ = ds.map(lambda r: {"a": r["a"] / 2})["a"][:]
    with pytest.raises(MapError, match="float64"):
        _ = ds.map(lambda r: {"b": 1 if r["a"] == 2 else 0.5})["b"][:]


@pytest.mark.parametrize("kind", ["int64", "int8"])
def test_features_of_whole_numbers_refuse_fractions(kind: str) -> None:
    features = ours.Features({"a": ours.Value(kind)})
    assert ours.Dataset.from_dict({"a": [1.0, None, 3]}, features=features)["a"][:] == [1, None, 3]
    with pytest.raises(FeatureError, match=r"1\.5"):
        ours.Dataset.from_dict({"a": [1, 1.5]}, features=features)
    with pytest.raises(FeatureError, match="whole"):
        ours.Dataset.from_dict({"a": [0.5]}, features=ours.Features({"a": ours.ClassLabel(names=["n", "p"])}))


def test_disable_nullable_makes_a_missing_value_an_error() -> None:
    ds = ours.Dataset.from_dict({"a": [1, 2]})
    assert ds.map(lambda r: {"b": r["a"]}, disable_nullable=True)["b"][:] == [1, 2]
    with pytest.raises(MapError, match="'b'"):
        _ = ds.map(lambda r: {"b": None if r["a"] == 2 else 1}, disable_nullable=True)["b"][:]


def test_map_without_a_function_removes_columns() -> None:
    for lib in (hf, ours):
        ds = lib.Dataset.from_dict({"a": [1], "b": [2]})
        assert list(ds.map(remove_columns="a")) == list(ds.map(remove_columns=["a"])) == [{"b": 2}]


def test_verbs_of_splits_take_what_is_of_each_split() -> None:
    ds = ours.DatasetDict({name: ours.Dataset.from_dict({"a": list(range(9))}) for name in ("train", "test")})
    both = ds.shuffle({"train": 1, "test": 2})
    assert both["train"].to_dict() == ds["train"].shuffle(seed=1).to_dict() != both["test"].to_dict()
    assert ds.shuffle(seeds=1)["test"].to_dict() == ds.shuffle(seed=1)["test"].to_dict()
    told = ds.map(lambda row, at, split: {"b": f"{split}{at}"}, True, False, True)
    assert told["test"][8]["b"] == "test8"
    with pytest.raises(ValueError, match="not both"):
        ds.shuffle({"train": 1}, 3)
    with pytest.raises(ValueError, match="new_fingerprint"):
        ds.map(lambda row: row, new_fingerprint="x")


def test_rows_without_columns_are_empty_and_metadata_says_the_features() -> None:
    bare = ours.Dataset.from_dict({"a": [0, 1]}).map(lambda row: row, remove_columns=["a"])
    assert len(bare) == 0 and list(bare) == [] and bare[:] == {}
    for lib in (hf, ours):
        ds = lib.Dataset.from_dict({"a": [0, 1]}).rename_column("a", "b").cast_column("b", lib.Value("int8"))
        assert lib.Features.from_arrow_schema(getattr(ds.data, "table", ds.data).schema) == ds.features


@pytest.mark.parametrize("options", [{"suffix_template": "_{}_of_{}"}, {"cache_file_name": "train"}])
def test_names_of_files_are_checked(options: dict[str, Any]) -> None:
    for call in (lambda ds: ds.map(lambda row: row, **options), lambda ds: ds.filter(lambda row: True, **options)):
        with pytest.raises(ArgumentError, match=next(iter(options))):
            call(ours.Dataset.from_dict({"a": [0, 1]}))


_ARRAYS = {
    "two dimensions": lambda n: np.full((2, 2), n, np.float32),
    "three dimensions": lambda n: np.full((2, 1, 2), n, np.int8),
    "rows of their own lengths": lambda n: np.ones((n + 1, 2), np.float32),
    "a tensor": lambda n: torch.full((2, 2), n, dtype=torch.int16),
    "a tensor of no dimension": lambda n: torch.tensor(n + 0.5),
    "bfloat16": lambda n: torch.ones(2, 2, dtype=torch.bfloat16),
    "in a list": lambda n: [torch.ones(2, 2), torch.zeros(1, 2)],
    "in a dict": lambda n: {"a": torch.ones(1, 2), "b": np.ones(3, np.float16)},
    "scalars in a list": lambda n: [np.float32(n), np.float32(2)],
    "truths": lambda n: np.array([[True, n > 0]]),
    "not in each row": lambda n: np.ones((1, 2), np.uint8) if n else None,
    "dates": lambda n: np.array([["2020-01-01"]], "datetime64[D]"),
}


@pytest.mark.parametrize("what", _ARRAYS)
@pytest.mark.parametrize("way", ["map", "batched", "from_dict", "from_list", "from_generator"])
def test_arrays_keep_the_type_of_their_numbers(what: str, way: str) -> None:
    made = [_ARRAYS[what](n) for n in range(3)]

    def built(lib: Any) -> Any:
        numbers = lib.Dataset.from_dict({"n": [0, 1, 2]})
        if way == "map":
            return numbers.map(lambda row: {"v": made[row["n"]]}, remove_columns="n")
        if way == "batched":
            return numbers.map(lambda rows: {"v": [made[n] for n in rows["n"]]}, batched=True, remove_columns="n")
        if way == "from_dict":
            return lib.Dataset.from_dict({"v": made})
        rows = [{"v": value} for value in made]
        return lib.Dataset.from_list(rows) if way == "from_list" else lib.Dataset.from_generator(lambda: iter(rows))

    ds, theirs = built(ours), built(hf)
    assert repr(ds.features) == repr(theirs.features) and ds[:] == theirs[:]
