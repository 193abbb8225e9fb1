"""Whatever Python's own writers make of rows, load_dataset reads back."""

import csv
import json
import math

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from martlet.datasets import Features, Value, load_dataset

few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r"), max_size=12)
LEAF = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)

AS_TEXT = Features({"a": Value("string"), "b": Value("string")})


def load(kind, path, **options):
    return load_dataset(kind, data_files=str(path), split="train", **options)


@few
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=30), sep=st.sampled_from(",;\t|"))
def test_csv_text(tmp_path, rows, sep):
    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=sep, quoting=csv.QUOTE_ALL)
        writer.writerows([("a", "b"), *rows])
    made = load("csv", tmp_path / "a.csv", sep=sep, na_filter=False, features=AS_TEXT)
    assert made[:] == {"a": [row[0] for row in rows], "b": [row[1] for row in rows]}


@few
@given(numbers=st.lists(st.integers(-(2**63), 2**63 - 1) | st.none(), min_size=1, max_size=30))
def test_csv_whole_numbers(tmp_path, numbers):
    lines = "".join(f"{i},{'' if n is None else n}\n" for i, n in enumerate(numbers))
    (tmp_path / "a.csv").write_text("i,n\n" + lines)
    assert load("csv", tmp_path / "a.csv")["n"][:] == numbers


@few
@given(rows=st.lists(st.fixed_dictionaries({"a": LEAF, "b": st.lists(LEAF, max_size=3)}), min_size=1, max_size=15))
def test_json_of_any_types(tmp_path, rows):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    found = list(load("json", tmp_path / "a.jsonl"))
    assert [_plain(row) for row in found] == [_plain(row) for row in rows]


def _plain(value):
    """Numbers as floats (a column of both is one of floats), moments as the text they were."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return "" if isinstance(value, float) and math.isnan(value) else value
