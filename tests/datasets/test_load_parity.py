"""What load_dataset makes of each format, held against Hugging Face's library on the same files."""

import bz2
import gc
import gzip
import io
import json
import lzma
import sqlite3
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import martlet.datasets as ours
from martlet.datasets import load_dataset

# theirs leaves a metadata file open
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

ROWS = [
    {"id": i, "text": f'row {i}, «ünï» "quoted"\nsecond line', "score": i / 8, "flag": i % 2 == 0} for i in range(250)
]
NESTED = [
    {"id": i, "tags": [f"t{j}" for j in range(i % 4)], "meta": {"a": i, "b": [{"c": j} for j in range(i % 3)]}}
    for i in range(100)
]


@pytest.fixture(autouse=True, scope="module")
def found_here():
    """What theirs leaves open is found while this module's filters hold, not in some later test."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    datasets.disable_progress_bars()


@pytest.fixture
def files(tmp_path):
    top = tmp_path / "data"
    top.mkdir()
    return top


def theirs(kind, **options):
    import datasets

    return datasets.load_dataset(kind, **options)


def spelled(features):
    """As JSON. Pandas 3, through which they read csv, makes large_string of strings; pandas 2 did not."""
    return json.loads(json.dumps(features.to_dict()).replace("large_string", "string"))


def both(kind, **options):
    """Ours and theirs, checked to have the same splits, columns and rows."""
    made, reference = load_dataset(kind, **options), theirs(kind, **options)
    assert list(made) == list(reference)
    for split in reference:
        assert spelled(made[split].features) == spelled(reference[split].features)
        assert made[split][:] == reference[split][:]
    return made


def write_csv(path, rows, sep=",", **how):
    import csv

    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=sep, **how)
        writer.writeheader()
        writer.writerows(rows)


def write_lines(path, rows):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def test_csv_and_tsv(files):
    write_csv(files / "a.csv", ROWS)
    write_csv(files / "b.tsv", ROWS, sep="\t")
    both("csv", data_files=str(files / "a.csv"))
    both("csv", data_files={"train": str(files / "a.csv"), "test": [str(files / "a.csv")]})
    both("csv", data_files=str(files / "b.tsv"), sep="\t")


@pytest.mark.parametrize(
    "options",
    [
        {"column_names": ["a", "b", "c"]},
        {"header": None},
        {"skiprows": 2},
        {"usecols": ["y"]},
        {"na_values": ["two"]},
        {"keep_default_na": False},
        {"nrows": 2},
        {"names": ["p", "q", "r"], "header": 0},
        {"index_col": "y"},
        {"index_col": False},
        {"index_col": 1, "usecols": ["y", "z"]},
        {"engine": "c", "memory_map": True},
    ],
)
def test_csv_options(files, options):
    (files / "a.csv").write_text("x,y,z\n1,two,0.5\n3,NA,1.5\n 5,six,2\n")
    both("csv", data_files=str(files / "a.csv"), **options)


@pytest.mark.parametrize(
    "cells",
    [
        *(["1", "2"], ["1", "2.5"], ["True", "False"], ["a", "1"], ["", "x"], ["inf", "1"], ["007", "8"]),
        *(["2020-01-01", "2020-01-02"], ["12345678901234567890", "1"], ["1e3", "2"], ["yes", "no"], ["true", ""]),
    ],
)
def test_csv_types(files, cells):
    (files / "a.csv").write_text("k,v\n" + "".join(f"{i},{cell}\n" for i, cell in enumerate(cells)))
    both("csv", data_files=str(files / "a.csv"))


def test_json_lines_and_nested(files):
    write_lines(files / "a.jsonl", ROWS)
    write_lines(files / "b.jsonl", NESTED)
    both("json", data_files=str(files / "a.jsonl"))
    both("json", data_files=str(files / "b.jsonl"))


def test_json_arrays_and_fields(files):
    (files / "array.json").write_text(json.dumps(ROWS[:50], indent=2))
    (files / "field.json").write_text(json.dumps({"version": 1, "data": NESTED[:20]}))
    (files / "columns.json").write_text(json.dumps({"a": [1, 2], "b": ["x", "y"]}, indent=1))
    (files / "strings.json").write_text(json.dumps(["x", "y"]))
    both("json", data_files=str(files / "array.json"))
    both("json", data_files=str(files / "field.json"), field="data")
    both("json", data_files=str(files / "columns.json"))
    both("json", data_files=str(files / "strings.json"))


@pytest.mark.parametrize(
    "values",
    [
        *([1, "a"], [None, "a"], [1, 2.5], [[1], ["a"]], [{"x": 1}, {"y": 2}], [{"x": 1}, {"x": "a"}], [True, 1]),
        *([{}, {"a": 1}], ["2020-01-01T00:00:00", "x"]),
    ],
)
def test_json_types_that_differ(files, values):
    write_lines(files / "a.jsonl", [{"id": i, "v": value} for i, value in enumerate(values)])
    both("json", data_files=str(files / "a.jsonl"))


def test_parquet_and_arrow(files):
    table = pa.Table.from_pylist(NESTED)
    pq.write_table(table, files / "a.parquet", row_group_size=30)
    with pa.ipc.new_stream(str(files / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_file(str(files / "b.arrow"), table.schema) as writer:
        writer.write_table(table)
    both("parquet", data_files=str(files / "a.parquet"))
    both("parquet", data_files=str(files / "a.parquet"), columns=["id"])
    both("parquet", data_files=str(files / "a.parquet"), filters=[("id", "<", 10)])
    both("arrow", data_files=str(files / "a.arrow"))
    both("arrow", data_files=str(files / "b.arrow"))


@pytest.mark.parametrize("text", ["a\nb\n", "a\r\nb", "one\n\ntwo\nlines\n\n\nthree", "\n", "ü\n\n", "a\rb"])
@pytest.mark.parametrize("how", ["line", "paragraph", "document"])
def test_text(files, text, how):
    (files / "a.txt").write_bytes(text.encode())
    both("text", data_files=str(files / "a.txt"), sample_by=how)


def test_text_keeps_line_breaks_and_reads_other_encodings(files):
    (files / "a.txt").write_bytes("é\nb".encode("latin-1"))
    both("text", data_files=str(files / "a.txt"), encoding="latin-1", keep_linebreaks=True)


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_compressed(files, ending, pack):
    data = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    (files / f"a.jsonl.{ending}").write_bytes(pack(data))
    both("json", data_files=str(files / f"a.jsonl.{ending}"))


def test_zstd(files):
    data = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    with pa.CompressedOutputStream(str(files / "a.jsonl.zst"), "zstd") as file:
        file.write(data)
    assert load_dataset("json", data_files=str(files / "a.jsonl.zst"))["train"][:]["id"] == list(range(250))


def test_zip(files):
    write_csv(files / "a.csv", ROWS[:100])
    write_csv(files / "b.csv", ROWS[100:])
    with zipfile.ZipFile(files / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(files / "a.csv", "in/a.csv")
        archive.write(files / "b.csv", "in/b.csv")
    both("csv", data_files=str(files / "a.zip"))


def test_from_files(files):
    import datasets

    write_csv(files / "a.csv", ROWS[:20])
    write_lines(files / "a.jsonl", NESTED)
    (files / "a.txt").write_text("x\ny\n")
    pq.write_table(pa.Table.from_pylist(NESTED), files / "a.parquet")
    for name in ("csv", "json", "text", "parquet"):
        path = str(files / f"a.{ {'json': 'jsonl', 'text': 'txt'}.get(name, name) }")
        made, reference = (getattr(made.Dataset, f"from_{name}")(path) for made in (ours, datasets))
        assert made[:] == reference[:] and spelled(made.features) == spelled(reference.features)


def test_the_cache_is_by_content(files):
    path = str(files / "a.csv")
    (files / "a.csv").write_text("a\n1\n")
    first = load_dataset("csv", data_files=path, split="train")
    assert load_dataset("csv", data_files=path, split="train").cache_files == first.cache_files
    assert load_dataset("csv", data_files=path, split="train", header=None).cache_files != first.cache_files
    (files / "a.csv").write_text("a\n22\n")
    assert load_dataset("csv", data_files=path, split="train")[0] == {"a": 22} and first[0] == {"a": 1}
    elsewhere = load_dataset("csv", data_files=path, split="train", cache_dir=str(files / "cache"))
    assert str(files / "cache") in elsewhere.cache_files[0]["filename"]


def test_sql(files):
    import datasets

    uri = f"sqlite:///{files / 'a.db'}"
    connection = sqlite3.connect(files / "a.db")
    connection.execute("create table t (a integer, b text, c real)")
    connection.executemany("insert into t values (?, ?, ?)", [(i, f"r{i}", i / 3) for i in range(300)])
    connection.commit()
    reference = datasets.Dataset.from_sql("select * from t where a > 5", connection)[:]
    for con in (uri, connection):
        assert ours.Dataset.from_sql("select * from t where a > 5", con)[:] == reference
        assert load_dataset("sql", sql="select * from t where a > 5", con=con)["train"][:] == reference
        moved = ours.Dataset.from_sql("select * from t where a > 5", con, index_col="a")
        assert (
            moved[:] == reference and moved.column_names[-1] == "a" != ours.Dataset.from_sql("t", uri).column_names[-1]
        )
    assert load_dataset("sql", sql="select a from t where a < ?", params=(3,), con=connection)["train"][:] == {
        "a": [0, 1, 2]
    }


def picture(color):
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), color).save(buffer, "PNG")
    return buffer.getvalue()


def same_pictures(ours, reference):
    assert spelled(ours.features) == spelled(reference.features)
    assert len(ours) == len(reference)
    for mine, other in zip(ours, reference, strict=True):
        assert {k: v for k, v in mine.items() if k != "image"} == {k: v for k, v in other.items() if k != "image"}
        assert mine["image"].tobytes() == other["image"].tobytes()


def test_imagefolder_by_folder(files):
    for split, label, color in [("train", "cat", "red"), ("train", "dog", "blue"), ("test", "dog", "green")]:
        (files / split / label).mkdir(parents=True)
        (files / split / label / f"{color}.png").write_bytes(picture(color))
    ours, reference = load_dataset("imagefolder", data_dir=str(files)), theirs("imagefolder", data_dir=str(files))
    assert list(ours) == list(reference)
    for split in ours:
        same_pictures(ours[split], reference[split])
    guessed = load_dataset(str(files))
    same_pictures(guessed["train"], reference["train"])


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_imagefolder_with_metadata(files, form):
    rows = [{"file_name": f"{c}.png", "caption": f"a {c} thing", "n": i} for i, c in enumerate(["red", "blue"])]
    for row in rows:
        (files / row["file_name"]).write_bytes(picture(row["file_name"][:-4]))
    (write_csv if form == "csv" else write_lines)(files / f"metadata.{form}", rows)
    same_pictures(
        load_dataset("imagefolder", data_dir=str(files))["train"], theirs("imagefolder", data_dir=str(files))["train"]
    )


def test_webdataset(files):
    with tarfile.open(files / "a.tar", "w") as archive:
        for i in range(7):
            for ending, data in [
                ("png", picture("red")),
                ("json", json.dumps({"n": i}).encode()),
                ("cls", str(i).encode()),
            ]:
                info = tarfile.TarInfo(f"s{i:03d}.{ending}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    ours = load_dataset("webdataset", data_files=str(files / "a.tar"))["train"]
    reference = theirs("webdataset", data_files=str(files / "a.tar"))["train"]
    assert spelled(ours.features) == spelled(reference.features)
    for name in ("__key__", "__url__", "json", "cls"):
        assert list(ours[name]) == list(reference[name])
    assert ours[3]["png"].tobytes() == reference[3]["png"].tobytes()


NAMES = [
    ["train.jsonl", "test.jsonl"],
    ["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl", "data/odd-00000-of-00001.jsonl"],
    ["train/a.jsonl", "dev/b.jsonl", "eval/c.jsonl"],
    ["my_train_file.jsonl", "x-valid.jsonl"],
    ["a.jsonl", "b.jsonl"],
    ["a.jsonl", ".hidden.jsonl", "__odd__/c.jsonl"],
    ["training.jsonl", "testing_2.jsonl", "contest.jsonl"],
    ["sub/train/x.jsonl", "sub/validation/y.jsonl"],
]


@pytest.mark.parametrize("names", NAMES)
def test_splits_by_name(files, names):
    for number, name in enumerate(names):
        path = files / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_lines(path, [{"name": name, "number": number}])
    both(str(files))


def test_readme_configs(files):
    (files / "README.md").write_text(
        "---\nconfigs:\n- config_name: one\n  data_files:\n  - split: train\n    path: a/*.csv\n"
        "  - split: odd\n    path: b.csv\n"
        "  sep: ';'\n- config_name: two\n  data_files: b.csv\n  default: true\n---\n# A card\n"
    )
    (files / "a").mkdir()
    (files / "a" / "x.csv").write_text("p;q\n1;2\n")
    (files / "b.csv").write_text("p;q\n3;4\n")
    both(str(files), name="one")
    both(str(files))


@pytest.mark.parametrize(
    "split",
    [
        *("train", "train[:10%]", "train[5:20]+test", "train[-10:]", "train[33%:66%]", "test+train[:1]", "all"),
        *("train[:33%](pct1_dropremainder)", "train[90%:]"),
    ],
)
def test_slices(files, split):
    write_lines(files / "train.jsonl", ROWS)
    write_lines(files / "test.jsonl", ROWS[:7])
    options = {"data_files": {"train": str(files / "train.jsonl"), "test": str(files / "test.jsonl")}}
    assert load_dataset("json", split=split, **options)[:] == theirs("json", split=split, **options)[:]


def test_rows_of_numbers_that_pandas_wrote_are_left_out(files):
    (files / "a.csv").write_text(",a\n0,1\n1,5\n2,2\n")
    both("csv", data_files=str(files / "a.csv"), index_col=0)


def test_thousands_and_truths(files):
    (files / "a.csv").write_text('n,x,t\n"1,000","2,500.5","a,b"\n7,1,c\n')
    both("csv", data_files=str(files / "a.csv"), thousands=",")
    (files / "a.csv").write_text("v,w\nyes,Y\nno,N\n")
    both("csv", data_files=str(files / "a.csv"), true_values=["yes", "Y"], false_values=["no"])


def test_sql_in_other_types(files):
    connection = sqlite3.connect(files / "a.db")
    connection.execute("create table t (a text, b integer, c real)")
    connection.executemany("insert into t values (?, ?, ?)", [(str(i), i, float(i)) for i in range(4)])
    connection.commit()
    for dtype in ("string", "int32", "float32"):
        features = ours.Features({name: ours.Value(dtype) for name in "abc"})
        made = ours.Dataset.from_sql("select * from t", connection, features=features)
        assert made.features == features
        assert made["b"][:] == {"string": ["0", "1", "2", "3"], "int32": [0, 1, 2, 3]}.get(dtype, [0.0, 1.0, 2.0, 3.0])
