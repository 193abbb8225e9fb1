"""CSV by the keywords of pandas' reader: the same rows as Hugging Face's loader gives with them."""

import csv
from pathlib import Path
from typing import Any

import datasets as hf
import pytest

import martlet.datasets as ours
from martlet.errors import ArgumentError

hf.disable_progress_bars()

TEXT = """# a file
id; name;  score # of all
1; "a; # b"; 0.5 # tail
2; c;1.5

3;  "d
# e"; NA
# the end
4;;2
"""


class Semicolons(csv.Dialect):
    delimiter, quotechar, doublequote, escapechar = ";", '"', True, None
    skipinitialspace, quoting, lineterminator = True, csv.QUOTE_MINIMAL, "\n"


def _both(tmp_path: Path, text: str, **options: Any) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    theirs = hf.load_dataset("csv", data_files=str(path), split="train", cache_dir=str(tmp_path / "hf"), **options)
    mine = ours.load_dataset("csv", data_files=str(path), split="train", **options)
    assert mine.to_dict() == theirs.to_dict() and len(mine)
    assert list(ours.load_dataset("csv", data_files=str(path), split="train", streaming=True, **options)) == list(mine)


@pytest.mark.parametrize(
    "options",
    [
        {"comment": "#", "sep": ";", "skipinitialspace": True},
        {"comment": "#", "dialect": Semicolons},
        {"skiprows": [0, 4, 6], "sep": ";", "skipinitialspace": True},
        {"skiprows": lambda number: number in (0, 2, 6), "sep": ";", "skipinitialspace": True},
        {"comment": "#", "sep": ";", "skipinitialspace": True, "usecols": lambda name: name != "score"},
        {
            "comment": "#",
            "sep": ";",
            "skipinitialspace": True,
            "converters": {"id": lambda text: float(text) / 2, 1: str.upper},
        },
    ],
)
def test_comments_spaces_and_lines_left_out(tmp_path: Path, options: dict[str, Any]) -> None:
    _both(tmp_path, TEXT, **options)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("a,b\n1,x\n2,y\n", {"dialect": "excel", "verbose": False, "mangle_dupe_cols": True, "date_format": None}),
        ("a,b|1,x|2,y|", {"lineterminator": "|"}),
        ("a,b\n1,NA\n2,\n", {"converters": {"b": lambda text: f"<{text}>"}}),
        ("a,b\n1,x\n2,y\n", {"usecols": ["b", "a"]}),
    ],
)
def test_dialects_line_ends_and_converters(tmp_path: Path, text: str, options: dict[str, Any]) -> None:
    _both(tmp_path, text, **options)


def test_functions_are_part_of_the_cache_key(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a\n1\n2\n")
    made = [
        ours.Dataset.from_csv(str(path), converters={"a": call})
        for call in (lambda t: int(t) + 1, lambda t: int(t) + 2)
    ]
    assert [ds["a"][:] for ds in made] == [[2, 3], [3, 4]]
    again = ours.Dataset.from_csv(str(path), converters={"a": lambda t: int(t) + 2})
    assert again.cache_files == made[1].cache_files


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"comment": "##"}, "one character"),
        ({"skiprows": "x"}, "numbers of lines"),
        ({"dialect": "nope"}, "excel"),
        ({"date_format": "%Y"}, "features="),
        ({"converters": {"zz": str}}, "zz"),
    ],
)
def test_what_they_refuse(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    (tmp_path / "a.csv").write_text("a\n1\n")
    with pytest.raises(ArgumentError, match=match):
        ours.Dataset.from_csv(str(tmp_path / "a.csv"), **options)


def test_files_listed_twice_are_read_twice_and_none_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a\n1\n")
    assert ours.Dataset.from_csv([str(path), str(path)])["a"][:] == [1, 1]
    assert ours.Dataset.from_csv([str(path), str(tmp_path / "*.csv")])["a"][:] == [1]
    for nothing in ({}, []):
        with pytest.raises(ArgumentError, match="data_files"):
            ours.load_dataset("csv", data_files=nothing)


def test_columns_of_parquet_come_in_the_files_order(tmp_path: Path) -> None:
    path = str(tmp_path / "a.parquet")
    ours.Dataset.from_dict({"a": [1], "b": [2], "c": [3]}).to_parquet(path)
    for lib in (hf, ours):
        for streaming in (False, True):
            made = lib.load_dataset("parquet", data_files=path, columns=["c", "a"], split="train", streaming=streaming)
            assert list(next(iter(made)).items()) == [("a", 1), ("c", 3)]
    with pytest.raises(ArgumentError, match="zz"):
        ours.Dataset.from_parquet(path, columns=["zz"])


def test_a_builder_tells_the_features_of_the_first_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,x\n")
    built = ours.load_dataset_builder(str(tmp_path))
    assert built.info.features == ours.Features({"a": ours.Value("int64"), "b": ours.Value("string")})
