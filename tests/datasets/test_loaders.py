"""Pictures and sound with metadata, tables of databases, other file systems: loaded and streamed alike."""

import datetime
import io
import json
import sqlite3
import tarfile
import zipfile

import fsspec
import numpy as np
import pytest

from martlet.datasets import Audio, ClassLabel, Dataset, Features, Image, Value, load_dataset
from martlet.errors import DataFileError

PIL = pytest.importorskip("PIL.Image")


def picture(number):
    buffer = io.BytesIO()
    PIL.fromarray(np.full((2, 3 + number, 3), number, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def put(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(folder)


def both(*args, **kwargs):
    """The rows of each split, which a stream must give too."""
    whole = load_dataset(*args, **kwargs)
    streams = load_dataset(*args, streaming=True, **kwargs)

    def plain(row):
        return {name: value.size if hasattr(value, "size") else value for name, value in row.items()}

    rows = {split: [plain(row) for row in dataset] for split, dataset in whole.items()}
    assert {split: [plain(row) for row in stream] for split, stream in streams.items()} == rows
    return rows, next(iter(whole.values())).features


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_pictures_with_metadata(tmp_path, form):
    rows = [{"file_name": f"in/{i}.png", "text": f"t{i}", "n": i} for i in (1, 0)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if form == "csv":
        lines = "file_name,text,n\n" + "".join(",".join(map(str, row.values())) + "\n" for row in rows)
    files = {f"train/in/{i}.png": picture(i) for i in range(3)}
    folder = put(tmp_path / "made", {**files, f"train/metadata.{form}": lines})
    for path, how in ((folder, {}), ("imagefolder", {"data_dir": folder})):
        rows, features = both(path, **how)
        assert rows == {"train": [{"image": (4, 2), "text": "t1", "n": 1}, {"image": (3, 2), "text": "t0", "n": 0}]}
        assert features == Features({"image": Image(), "text": Value("string"), "n": Value("int64")})
    rows, _ = both("imagefolder", data_dir=folder, drop_metadata=True)
    assert [row["image"] for row in rows["train"]] == [(3, 2), (4, 2), (5, 2)]


def test_metadata_of_several_pictures_a_row(tmp_path):
    line = json.dumps({"left_file_name": "a.png", "right_file_name": "b.png", "n": 1})
    folder = put(tmp_path, {"a.png": picture(0), "b.png": picture(1), "metadata.jsonl": line})
    rows, _ = both("imagefolder", data_dir=folder)
    assert rows == {"train": [{"left": (3, 2), "right": (4, 2), "n": 1}]}


def test_metadata_of_a_picture_that_is_not_there(tmp_path):
    folder = put(tmp_path, {"a.png": picture(0), "metadata.csv": "file_name,n\na.png,1\nb.png,2\n"})
    for streaming in (False, True):
        with pytest.raises(DataFileError, match=r"b\.png"):
            list(load_dataset("imagefolder", data_dir=folder, streaming=streaming)["train"])


def test_pictures_by_folder_in_an_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for label in ("cat", "dog"):
            archive.writestr(f"top/{label}/0.png", picture(1))
    rows, features = both("imagefolder", data_files=str(tmp_path / "a.zip"))
    assert [row["label"] for row in rows["train"]] == [0, 1]
    assert features["label"] == ClassLabel(names=["cat", "dog"])


def test_sound_by_folder_and_with_metadata(tmp_path):
    soundfile = pytest.importorskip("soundfile")

    def sound(count):
        buffer = io.BytesIO()
        soundfile.write(buffer, np.zeros(count, np.float32), 8000, format="WAV")
        return buffer.getvalue()

    def lengths(dataset):
        return [(len(row["audio"]["array"]), row["audio"]["sampling_rate"]) for row in dataset]

    folder = put(tmp_path / "by", {f"{s}/{c}/x.wav": sound(9) for s in ("train", "test") for c in "ab"})
    for streaming in (False, True):
        made = load_dataset("audiofolder", data_dir=folder, streaming=streaming)
        assert {split: [row["label"] for row in rows] for split, rows in made.items()} == {
            "train": [0, 1],
            "test": [0, 1],
        }
        assert lengths(made["train"]) == [(9, 8000)] * 2
    files = {"data/0.wav": sound(5), "data/1.wav": sound(6), "metadata.csv": "file_name,said\ndata/1.wav,b\n"}
    folder = put(tmp_path / "said", files)
    for streaming in (False, True):
        made = load_dataset(folder, split="train", streaming=streaming)
        assert made.features == Features({"audio": Audio(), "said": Value("string")})
        assert lengths(made) == [(6, 8000)]


def test_another_file_system():
    memory = fsspec.filesystem("memory")
    for split, count in (("train", 3), ("test", 2)):
        Dataset.from_dict({"a": list(range(count))}).to_json(f"memory://loaders/rows/{split}.jsonl")
        for number in range(count):
            memory.pipe_file(f"/loaders/seen/{split}/{number}.png", picture(number))
        lines = "".join(f"{number}.png,{number}\n" for number in range(count))
        memory.pipe_file(f"/loaders/seen/{split}/metadata.csv", b"file_name,n\n" + lines.encode())
    rows, _ = both("json", data_dir="memory://loaders/rows")
    assert rows == {"train": [{"a": 0}, {"a": 1}, {"a": 2}], "test": [{"a": 0}, {"a": 1}]}
    rows, _ = both("imagefolder", data_dir="memory://loaders/seen")
    assert rows["test"] == [{"image": (3, 2), "n": 0}, {"image": (4, 2), "n": 1}]


def test_a_tar_of_samples(tmp_path):
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for number in range(2):
            parts = {"png": picture(number), "json": json.dumps({"n": number}).encode(), "txt": b"seen"}
            for ending, data in parts.items():
                entry = tarfile.TarInfo(f"s{number}.{ending}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    for path, how in ((str(tmp_path), {}), ("webdataset", {"data_files": {"train": str(tmp_path / "*.tar")}})):
        rows, _ = both(path, **how)
        assert [(row["__key__"], row["png"], row["json"], row["txt"]) for row in rows["train"]] == [
            ("s0", (3, 2), {"n": 0}, "seen"),
            ("s1", (4, 2), {"n": 1}, "seen"),
        ]


def test_a_table_of_a_database_has_its_types(tmp_path):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    path = tmp_path / "rows.db"
    connection = sqlite3.connect(path)
    connection.execute("create table t(id integer, name text, is_ok boolean, day date)")
    connection.executemany("insert into t values(?, ?, ?, ?)", [(1, "a", 1, "2024-01-02"), (2, None, 0, None)])
    connection.commit()
    uri = f"sqlite:///{path}"
    engine = sqlalchemy.create_engine(uri)
    typed = {"id": [1, 2], "name": ["a", None], "is_ok": [True, False], "day": [datetime.date(2024, 1, 2), None]}
    with engine.connect() as open_connection:
        for con in (uri, engine, open_connection):
            assert Dataset.from_sql("t", con)[:] == typed
            assert Dataset.from_sql("t", con, columns=["name", "id"])[:] == {n: typed[n] for n in ("name", "id")}
            assert Dataset.from_sql("select id from t where id > 1", con)[:] == {"id": [2]}
    chosen = sqlalchemy.select(sqlalchemy.text("id")).select_from(sqlalchemy.text("t"))
    assert Dataset.from_sql(chosen, uri)[:] == {"id": [1, 2]}
    assert Dataset.from_sql("select id from t where name = :name", uri, params={"name": "a"})[:] == {"id": [1]}
    assert Dataset.from_sql("select id, is_ok from t", connection)[:] == {"id": [1, 2], "is_ok": [1, 0]}
    with pytest.raises(DataFileError, match="refused"):
        Dataset.from_sql("nowhere", uri)
    connection.execute("insert into t values(3, 'c', 1, 'never')")
    connection.commit()
    with pytest.raises(DataFileError, match="column's type"):
        Dataset.from_sql("t", uri)
    connection.close()
    engine.dispose()
