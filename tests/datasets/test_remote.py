"""Files over http and in S3, and folders of several formats."""

import functools
import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from martlet.datasets import Dataset, DatasetDict, Features, load_dataset, load_from_disk
from martlet.errors import DataFileError, DatasetNotFoundError

ROWS = [{"id": number, "text": f"row {number} é"} for number in range(40)]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("aiohttp", reason="fsspec reads http through aiohttp")
    folder = tmp_path_factory.mktemp("site")
    (folder / "a.jsonl").write_bytes(lines(ROWS))
    (folder / "b.json.gz").write_bytes(gzip.compress(json.dumps({"version": "1", "data": ROWS}).encode()))
    (folder / "c.csv").write_text("id,text\n" + "".join(f"{row['id']},{row['text']}\n" for row in ROWS))
    Dataset.from_list(ROWS).to_parquet(folder / "d.parquet")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


OVER_HTTP = [
    ("json", "a.jsonl", {}),
    ("json", "b.json.gz", {"field": "data"}),
    ("csv", "c.csv", {}),
    ("parquet", "d.parquet", {}),
]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("kind", "name", "options"), OVER_HTTP)
def test_over_http(site: str, kind: str, name: str, options: dict[str, Any], streaming: bool):
    files = {"train": f"{site}/{name}", "test": [f"{site}/{name}"]}
    ds = load_dataset(kind, data_files=files, streaming=streaming, **options)
    assert list(ds["train"]) == list(ds["test"]) == ROWS
    part = ds["train"].shuffle(seed=1)
    assert sorted(row["id"] for row in part) == list(range(40))


def test_what_is_not_there_over_http(site: str):
    with pytest.raises(DatasetNotFoundError, match=r"missing\.jsonl"):
        load_dataset("json", data_files=f"{site}/missing.jsonl")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The options of a store that holds the bucket `data`."""
    reason = "a store of S3's kind is moto's server, read by s3fs: pip install 'moto[server]' s3fs"
    moto = pytest.importorskip("moto.server", reason=reason)
    s3fs = pytest.importorskip("s3fs", reason=reason)
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "k", "secret": "s", "endpoint_url": f"http://{host}:{port}"}
    store = s3fs.S3FileSystem(**options)
    store.mkdir("data")
    store.pipe({"data/a.jsonl": lines(ROWS[:25]), "data/b.jsonl": lines(ROWS[25:])})
    store.pipe({"data/c.jsonl.gz": gzip.compress(lines(ROWS[:10])), "data/d.jsonl.gz": gzip.compress(lines(ROWS[10:]))})
    yield options
    server.stop()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # botocore's
def test_in_s3(bucket: dict[str, Any], tmp_path: Path):
    how = {"split": "train", "storage_options": bucket}
    ds = load_dataset("json", data_files="s3://data/*.jsonl", **how)
    assert list(ds) == ROWS
    stream = load_dataset("json", data_files="s3://data/*.gz", streaming=True, **how).shuffle(seed=3, buffer_size=7)
    rows = iter(stream)
    before = [next(rows) for _ in range(13)]
    stream.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    assert sorted(row["id"] for row in [*before, *stream]) == list(range(40))
    for extension, write in (("parquet", ds.to_parquet), ("csv", ds.to_csv), ("jsonl", ds.to_json)):
        write(f"s3://data/out/rows.{extension}", storage_options=bucket)
        kind = {"jsonl": "json"}.get(extension, extension)
        files = f"s3://data/out/rows.{extension}"
        assert list(load_dataset(kind, data_files=files, **how)) == ROWS
        assert list(load_dataset(kind, data_files=files, streaming=True, **how)) == ROWS
    ds.save_to_disk("s3://data/saved", storage_options=bucket)
    assert list(load_from_disk("s3://data/saved", storage_options=bucket)) == ROWS
    DatasetDict(train=ds).save_to_disk("s3://data/splits", storage_options=bucket)
    assert list(load_from_disk("s3://data/splits", storage_options=bucket)["train"]) == ROWS
    for missing in ("s3://data/none.jsonl", "s3://nowhere/*.jsonl"):
        with pytest.raises(DatasetNotFoundError):
            load_dataset("json", data_files=missing, **how)


def test_a_folder_of_several_formats(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The format of most files is read; data of another is left out, which is said."""
    tmp_path = tmp_path / "mixed"
    tmp_path.mkdir()
    (tmp_path / "a.csv").write_text("n\n1\n")
    (tmp_path / "b.csv").write_text("n\n2\n")
    (tmp_path / "c.jsonl").write_text('{"n": 3}\n')
    (tmp_path / "notes.md").write_text("# Notes\n")
    (tmp_path / "LICENSE").write_text("free\n")
    for streaming in (False, True):
        caplog.clear()
        ds = load_dataset(str(tmp_path), streaming=streaming)
        assert list(ds) == ["train"] and list(ds["train"]) == [{"n": 1}, {"n": 2}]
        assert "left out 1 file of another format (c.jsonl" in caplog.text and "notes.md" not in caplog.text
    named = {"train": "*.csv", "other": "c.jsonl"}
    with pytest.raises(DataFileError, match="train: csv, other: json"):
        load_dataset(str(tmp_path), data_files=named)
    assert load_dataset("json", data_files=str(tmp_path / "c.jsonl"))["train"][:] == {"n": [3]}


def test_pictures_beside_tables(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    image = pytest.importorskip("PIL.Image")
    tmp_path = tmp_path / "mixed"
    tmp_path.mkdir()
    for split, name in (("train", "1.png"), ("train", "2.png"), ("test", "3.png")):
        (tmp_path / split).mkdir(exist_ok=True)
        image.new("RGB", (4, 3)).save(tmp_path / split / name)
    for split, names in (("train", ("1.png", "2.png")), ("test", ("3.png",))):
        rows = [{"file_name": name, "text": f"of {name}", "box": [1.5, 2.0]} for name in names]
        (tmp_path / split / "metadata.jsonl").write_bytes(lines(rows))
    (tmp_path / "train" / "numbers.csv").write_text("n\n1\n")
    for path, options in ((str(tmp_path), {}), ("imagefolder", {"data_dir": str(tmp_path)})):
        for streaming in (False, True):
            ds = load_dataset(path, streaming=streaming, **options)
            assert {split: [row["text"] for row in ds[split]] for split in ds} == {
                "train": ["of 1.png", "of 2.png"],
                "test": ["of 3.png"],
            }
            first = next(iter(ds["train"]))
            assert first["image"].size == (4, 3) and first["box"] == [1.5, 2.0]
            assert isinstance(ds["train"].features, Features) and list(ds["train"].features) == ["image", "text", "box"]
    assert "numbers.csv" in caplog.text
