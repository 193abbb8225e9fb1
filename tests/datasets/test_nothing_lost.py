"""Rows that cannot be read, made or written are named or counted, and what was there before stays."""

import gzip
import io
import itertools
import os
import resource
import signal
import sqlite3
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from martlet.datasets import Dataset, DatasetDict, cache, load_dataset, load_from_disk
from martlet.datasets.sources.lines import blocks
from martlet.errors import CacheError, DataFileError, DatasetError, FeatureError, MapError, SaveError

BOTH = pytest.mark.parametrize("streaming", [False, True])
DS = Dataset.from_dict({"a": list(range(2500))})


def rows_of(kind: str, path: Path, *, streaming: bool = False, **options: Any) -> list[Any]:
    return list(load_dataset(kind, data_files=str(path), split="train", streaming=streaming, **options))


@BOTH
def test_a_quote_that_is_never_closed(tmp_path: Path, streaming: bool, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "a.csv"
    path.write_text('a,b\n1,2\n3,"4\n5,6\n7,8\n')
    with pytest.raises(DataFileError, match="not closed before the file's end at line 3"):
        rows_of("csv", path, streaming=streaming)
    assert rows_of("csv", path, streaming=streaming, on_error="skip") == [{"a": 1, "b": 2}]
    assert "left out 1 row" in caplog.text and "at line 3" in caplog.text
    path.write_text('a,b\n1,"x ""y"" \nz"\n2,5" pipe\n3,"w\n"\n')  # an odd number of quotes, and none open
    texts = ['x "y" \nz', '5" pipe', "w\n"]
    assert [row["b"] for row in rows_of("csv", path, streaming=streaming)] == texts


@BOTH
def test_cells_of_csv_that_are_no_text(tmp_path: Path, streaming: bool, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b\n1,x\n2,caf\xe9\n3,\n")
    assert rows_of("csv", path, streaming=streaming, on_error="skip") == [{"a": 1, "b": "x"}, {"a": 3, "b": None}]
    assert "left out 1 row" in caplog.text and "0xe9" in caplog.text


def test_what_was_left_out_is_said_again(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    for _ in range(2):  # the second time it comes from the cache
        caplog.clear()
        assert rows_of("json", path, on_error="skip") == [{"a": 1}, {"a": 3}]
        assert "left out 1 row" in caplog.text and "line 2" in caplog.text


def test_links_in_archives_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, target in (("link.csv", "/etc/passwd"), ("other.csv", "rows.csv")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        rows = tarfile.TarInfo("rows.csv")
        rows.size = 4
        archive.addfile(rows, io.BytesIO(b"a\n1\n"))
    assert rows_of("csv", tmp_path / "a.tar") == [{"a": 1}]
    assert "left out 2 links and devices (the first: link.csv)" in caplog.text


def test_where_an_array_is_cut_off(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text('[{"a":1},{"a":2},{"a":3')
    with pytest.raises(DataFileError, match="line 1, column 24"):
        rows_of("json", path)
    path.write_text('[{"a":1},\n {"a":2},\n {"a" 3}]')
    with pytest.raises(DataFileError, match="line 3, column 7"):
        rows_of("json", path)


@pytest.mark.parametrize("separator", [b"\n", b"\n\n"])
def test_lines_longer_than_blocks(separator: bytes):
    parts = [b"a" * 30, b"", b"b", b"c" * 17, b"d" * 5]
    for end in (b"", separator):
        data = separator.join(parts) + end
        found = list(blocks(io.BytesIO(data), 7, separator))
        assert b"".join(block.data for block in found) == data
        assert [block.offset for block in found] == [0, *itertools.accumulate(len(b.data) for b in found)][:-1]
        assert all(block.data.endswith(separator) for block in found[:-1])


def test_stop_iteration_ends_nothing():
    few = iter(range(5))
    for ds in (DS, DS.to_iterable_dataset()):
        for call in (
            lambda ds: ds.map(lambda row: {"b": next(few)}),
            lambda ds: ds.filter(lambda row: next(few) >= 0),
            lambda ds: ds.map(lambda batch: {"b": [next(few) for _ in batch["a"]]}, batched=True),
        ):
            with pytest.raises((MapError, DatasetError), match="StopIteration"):
                list(call(ds))


def test_rows_are_named():
    def odd(row: Any) -> Any:
        return {"b": 1} if row["a"] < 2000 else {"c": 1}

    for num_proc in (None, 2):
        with pytest.raises(MapError, match=r"rows \d,\d{3} to \d,\d{3}: the function must return the same columns"):
            DS.map(odd, num_proc=num_proc)[0]
    with pytest.raises(MapError, match=r"column 'b' was Value\('int64'\) in earlier rows.*Return one type"):
        DS.map(lambda batch: {"b": [1 if a < 2100 else "x" for a in batch["a"]]}, batched=True)[0]
    for num_proc in (None, 2):
        with pytest.raises(ZeroDivisionError) as raised:
            DS.map(lambda row: {"b": 1 / (row["a"] - 2400)}, num_proc=num_proc)[0]
        assert any("In map" in note and "rows 2," in note for note in raised.value.__notes__)


def test_streams_name_what_does_not_fit(tmp_path: Path):
    stream = DS.to_iterable_dataset()
    for made in ({"a": 3}, {"a": "abc"}, {"a": {"x": 1}}):
        with pytest.raises(DatasetError, match="rows 0 to 999: column 'a' must be a list"):
            list(stream.map(lambda batch, made=made: made, batched=True))
    mixed = stream.map(lambda row: {"b": 1 if row["a"] < 2000 else "x"})
    with pytest.raises(FeatureError, match=r"column 'b': is Value\('int64'\); found 'x'"):
        mixed.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(FeatureError, match="column 'c': must be one of the stream's columns"):
        stream.map(lambda row: {"b": 1} if row["a"] < 2000 else {"c": 1}).to_parquet(tmp_path / "a.parquet")
    assert not (tmp_path / "a.parquet").exists()


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 20,000 bytes: writing more is an error of the system, as on a full disk."""
    limit, old = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    signal.signal(signal.SIGXFSZ, old)


@pytest.mark.parametrize("name", ["a.csv", "a.json.gz", "a.parquet", "a.csv.zst", "a.jsonl.xz"])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, name: str, small_files: None):
    path = tmp_path / name
    path.write_bytes(b"old")
    ds = Dataset.from_dict({"a": [os.urandom(100).hex() for _ in range(500)]})
    with pytest.raises(SaveError, match=r"what was there before is intact"):
        getattr(ds, {"csv": "to_csv", "par": "to_parquet"}.get(name[2:5], "to_json"))(path)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir() if p.name != "cache"] == [name]


def test_a_full_disk_leaves_the_old_folder(tmp_path: Path, small_files: None):
    big = Dataset.from_dict({"a": [os.urandom(100) for _ in range(500)]})
    DatasetDict(train=DS.select(range(3))).save_to_disk(tmp_path / "ds")
    with pytest.raises(SaveError, match=r"ds: could not"):
        DatasetDict(train=big).save_to_disk(tmp_path / "ds")
    assert load_from_disk(tmp_path / "ds")["train"]["a"][:] == [0, 1, 2]
    with pytest.raises(SaveError, match="table 'rows': could not be written; batches before this are in it"):
        big.to_sql("rows", f"sqlite:///{tmp_path}/a.db", batch_size=50)
    with sqlite3.connect(tmp_path / "a.db") as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_full_cache_says_how_to_free_it(tmp_path: Path, small_files: None):
    with gzip.open(tmp_path / "a.txt.gz", "wt") as file:
        file.writelines(f"{number:0100}\n" for number in range(500))
    with pytest.raises(CacheError, match=r"cannot be written; found File too large\. Free space: martlet cache clear"):
        load_dataset("text", data_files=str(tmp_path / "a.txt.gz"), split="train")
    assert [entry for entry in cache.entries() if entry.num_bytes] == []


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "a.csv").write_text("a\n1\n")
    monkeypatch.setenv("MARTLET_DATASETS_CACHE", str(tmp_path / "file"))
    with pytest.raises(CacheError, match="keep_in_memory=True"):
        rows_of("csv", tmp_path / "a.csv")
    assert rows_of("csv", tmp_path / "a.csv", keep_in_memory=True) == [{"a": 1}]
    assert "read into memory all the same" in caplog.text
