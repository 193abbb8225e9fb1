"""Files that are broken or made to deceive: each error names the file and the place; nothing is silently left out."""

import gzip
import io
import json
import logging
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from martlet.datasets import load_dataset
from martlet.errors import ArgumentError, DataFileError, DatasetNotFoundError, UnsupportedError


def load(kind, path, **options):
    return load_dataset(kind, data_files=str(path), **options)["train"]


def lines(count):
    return [json.dumps({"id": i, "text": f"row {i}"}) for i in range(count)]


def test_a_broken_line_is_named(tmp_path, caplog):
    rows = lines(70_100)
    rows[70_000] = '{"id": 70000, "text": oops}'
    (tmp_path / "a.jsonl").write_text("\n".join(rows) + "\n")
    with pytest.raises(DataFileError, match=r"a\.jsonl.*line 70001, column 23"):
        load("json", tmp_path / "a.jsonl")
    with caplog.at_level(logging.WARNING):
        kept = load("json", tmp_path / "a.jsonl", on_error="skip")
    assert len(kept) == 70_099 and kept[70_000]["id"] == 70_001
    assert "left out 1 row" in caplog.text and "line 70001" in caplog.text


def test_ragged_csv(tmp_path, caplog):
    rows = ["a,b", *(f"{i},x" for i in range(3000))]
    rows[2000] = "7,8,9"
    rows[2500] = "7"
    (tmp_path / "a.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(DataFileError, match=r"a\.csv.*3 fields for 2 columns at line 2001, column 3"):
        load("csv", tmp_path / "a.csv")
    with caplog.at_level(logging.WARNING):
        assert len(load("csv", tmp_path / "a.csv", on_error="skip")) == 2998
    assert "left out 2 rows" in caplog.text


def test_a_line_number_counts_lines_inside_quotes(tmp_path):
    (tmp_path / "a.csv").write_text('a,b\n"one\ntwo\nthree",1\n1,2,3\n')
    with pytest.raises(DataFileError, match="line 5"):
        load("csv", tmp_path / "a.csv")


@pytest.mark.parametrize("kind", ["csv", "json", "text"])
def test_invalid_utf8(tmp_path, kind):
    bad = {"csv": b"a,b\n1,ok\n2,\xff\xfe\n", "json": b'{"a": "ok"}\n{"a": "\xff\xfe"}\n', "text": b"ok\n\xff\xfe\n"}[
        kind
    ]
    (tmp_path / "a").write_bytes(bad)
    with pytest.raises(DataFileError, match=r"(?i)utf-8.*line [23]" if kind != "csv" else "(?i)utf-?8"):
        load(kind, tmp_path / "a")
    if kind != "csv":
        assert len(load(kind, tmp_path / "a", on_error="skip")) == 1


def test_truncated_parquet_and_arrow(tmp_path):
    table = pa.table({"a": list(range(10_000))})
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    for name in ("a.parquet", "a.arrow"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(DataFileError, match=f"{name}.*truncated"):
            load(name[2:], tmp_path / name)


def test_truncated_gzip(tmp_path):
    data = gzip.compress("\n".join(lines(5000)).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataFileError, match="cannot be unpacked"):
        load("json", tmp_path / "a.jsonl.gz")


def test_truncated_json_array(tmp_path):
    text = json.dumps([{"a": i} for i in range(50)], indent=1)
    (tmp_path / "a.json").write_text(text[:-20])
    with pytest.raises(DataFileError, match="line 148"):
        load("json", tmp_path / "a.json")


@pytest.mark.parametrize("name", ["../up.csv", "/abs.csv", "a/../../up.csv", "C:\\x.csv"])
@pytest.mark.parametrize("form", ["zip", "tar"])
def test_archives_that_leave_their_folder(tmp_path, name, form):
    path = tmp_path / f"a.{form}"
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, "a,b\n1,2\n")
    else:
        with tarfile.open(path, "w") as tar:
            info = tarfile.TarInfo(name)
            info.size = 8
            tar.addfile(info, io.BytesIO(b"a,b\n1,2\n"))
    with pytest.raises(DataFileError, match="stay inside"):
        load("csv", path)
    assert not (tmp_path.parent / "up.csv").exists()


def test_a_bomb_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("martlet.datasets.files.MAX_SMALL", 1 << 20)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"\n" * (8 << 20)))
    with pytest.raises(DataFileError, match="200 times"):
        load("text", tmp_path / "a.txt.gz")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", b"\n" * (8 << 20))
    with pytest.raises(DataFileError, match="200 times"):
        load("text", tmp_path / "a.zip")


def test_duplicate_columns_of_parquet_and_arrow(tmp_path):
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    for kind in ("parquet", "arrow"):
        with pytest.raises(DataFileError, match="'a' more than once"):
            load(kind, tmp_path / f"a.{kind}")
        with pytest.raises(DataFileError, match="'a' more than once"):
            list(load(kind, tmp_path / f"a.{kind}", streaming=True))


def test_a_key_twice_in_a_row_of_json(tmp_path, caplog):
    """The value that would be lost is not."""
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": 2, "a": 3}\n{"a": 4}\n')
    with pytest.raises(DataFileError, match="'a' occurs twice at line 2"):
        load("json", tmp_path / "a.jsonl")
    with caplog.at_level(logging.WARNING):
        assert load("json", tmp_path / "a.jsonl", on_error="skip")["a"][:] == [1, 4]
    assert "left out 1 row" in caplog.text
    (tmp_path / "b.jsonl").write_text('{"a": {"b": 1, "b": 2}}\n')
    with pytest.raises(DataFileError, match="'b' occurs twice at line 1"):
        load("json", tmp_path / "b.jsonl")
    for text, options in (('[{"a": 1},\n {"a": 2, "a": 3}]', {}), ('{"rows": [{"a": 1, "a": 2}]}', {"field": "rows"})):
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(DataFileError, match="'a' occurs twice"):
            load("json", tmp_path / "c.json", **options)


def test_duplicate_columns(tmp_path):
    (tmp_path / "a.csv").write_text("a,b,a\n1,2,3\n")
    with pytest.raises(DataFileError, match="'a' more than once"):
        load("csv", tmp_path / "a.csv")


def test_columns_that_widen_say_so(tmp_path, caplog):
    rows = [json.dumps({"v": None, "n": i}) for i in range(90_000)] + [json.dumps({"v": "text", "n": 0.5, "new": 1})]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    with caplog.at_level(logging.INFO):
        made = load("json", tmp_path / "a.jsonl", chunksize=1 << 18)
    assert made[90_000] == {"v": "text", "n": 0.5, "new": 1} and made[1] == {"v": None, "n": 1.0, "new": None}
    assert "v was null at first and is string" in caplog.text and "n was int64" in caplog.text


def test_csv_numbers_then_text_keep_their_spelling(tmp_path, caplog):
    (tmp_path / "a.csv").write_text("k,v\n" + "".join(f"{i},{i:09}\n" for i in range(700_000)) + "1,abc\n")
    with caplog.at_level(logging.INFO):
        made = load("csv", tmp_path / "a.csv")
    assert made[7]["v"] == "000000007" and made[700_000]["v"] == "abc"
    assert "v: first int64, then text" in caplog.text


def test_json_numbers_then_text_become_json(tmp_path):
    rows = [json.dumps({"v": i}) for i in range(60_000)] + [json.dumps({"v": "text"}), json.dumps({"v": [1]})]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    made = load("json", tmp_path / "a.jsonl", chunksize=1 << 18)
    assert [made[i]["v"] for i in (0, 59_999, 60_000, 60_001)] == [0, 59_999, "text", [1]]


def test_keywords_formats_and_files_that_are_not_there(tmp_path, caplog):
    (tmp_path / "a.csv").write_text("a\n1\n")
    with pytest.raises(ArgumentError, match="delimiter"):
        load("csv", tmp_path / "a.csv", delimeter=";")
    with pytest.raises(UnsupportedError, match="hdf5"):
        load("hdf5", tmp_path / "a.csv")
    with pytest.raises(DatasetNotFoundError, match=r"b\.csv.*a\.csv"):
        load("csv", tmp_path / "b.csv")
    with pytest.raises(ArgumentError, match="on_error"):
        load("csv", tmp_path / "a.csv", on_error="ignore")
    with pytest.raises(ArgumentError, match="train"):
        load_dataset("csv", data_files=str(tmp_path / "a.csv"), split="test")
    with pytest.raises(ArgumentError, match="split"):
        load_dataset("csv", data_files=str(tmp_path / "a.csv"), split="train[:x]")
    load_dataset("csv", data_files=str(tmp_path / "a.csv"), trust_remote_code=True)
    assert "no repository's Python is run" in caplog.text


def test_metadata_may_not_reach_out(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "in" / "a.png").write_bytes(b"x")
    for name in ("../secret.png", "/etc/passwd", "file:///etc/passwd"):
        (tmp_path / "in" / "metadata.jsonl").write_text(json.dumps({"file_name": name}) + "\n")
        with pytest.raises(DataFileError, match="stay inside"):
            load_dataset("imagefolder", data_dir=str(tmp_path / "in"))


def test_an_empty_file(tmp_path):
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(DataFileError, match="header"):
        load("csv", tmp_path / "a.csv")
