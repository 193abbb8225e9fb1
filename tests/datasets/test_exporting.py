"""Files and frames that go out, read back by Hugging Face's library; SQL; torch loaders; what a notebook shows."""

import datetime
import io
import json
import pickle
import sqlite3

import datasets as hf
import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pytest
import torch

from martlet.datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, Json, Value
from martlet.errors import ArgumentError

COLUMNS = {"id": [0, 1, 2], "text": ["a, b", None, "é\n"], "tags": [["x"], [], None], "score": [0.5, None, 2.0]}
DS = Dataset.from_dict(COLUMNS)


def test_json_lines(tmp_path):
    assert DS.to_json(tmp_path / "a.jsonl") == (tmp_path / "a.jsonl").stat().st_size
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == DS.to_list()
    DS.to_json(tmp_path / "a.json", lines=False)
    assert json.loads((tmp_path / "a.json").read_text()) == DS.to_list()
    DS.to_json(tmp_path / "a.jsonl.gz", force_ascii=False)
    assert pd.read_json(tmp_path / "a.jsonl.gz", lines=True)["text"][2] == "é\n"
    buffer = io.BytesIO()
    DS.select([2, 0]).to_json(buffer, batch_size=1)
    assert [json.loads(line)["id"] for line in buffer.getvalue().splitlines()] == [2, 0]


def test_csv_is_hugging_faces(tmp_path):
    flat = DS.remove_columns("tags")
    flat.to_csv(tmp_path / "ours.csv", batch_size=2)
    hf.Dataset.from_dict(flat.to_dict()).to_csv(tmp_path / "theirs.csv", batch_size=2)
    assert (tmp_path / "ours.csv").read_bytes() == (tmp_path / "theirs.csv").read_bytes()


def test_parquet_keeps_the_features(tmp_path):
    features = Features({"l": ClassLabel(names=["n", "y"]), "a": Array2D((1, 2), "int8"), "j": Json()})
    rows = {"l": [1, 0], "a": [[[1, 2]], [[3, 4]]], "j": [{"k": 1}, [None]]}
    ds = Dataset.from_dict(rows, features=features)
    ds.to_parquet(tmp_path / "a.parquet")
    read = hf.Dataset.from_parquet(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "hf"))
    assert read.features.to_dict() == features.to_dict() and read[:] == ds[:] == rows


def test_tables_of_databases():
    connection = sqlite3.connect(":memory:")
    assert DS.remove_columns("tags").to_sql("rows", connection) == 3
    assert connection.execute("select id, text from rows").fetchall() == [(0, "a, b"), (1, None), (2, "é\n")]
    connection.close()


def test_frames_and_objects():
    assert DS.to_dict() == COLUMNS and DS.to_list()[1] == {"id": 1, "text": None, "tags": [], "score": None}
    assert list(DS.to_dict(batch_size=2, batched=True))[1]["id"] == [2]
    assert DS.to_pandas()["id"].tolist() == [0, 1, 2] and DS.to_polars()["score"].to_list() == COLUMNS["score"]
    assert [len(frame) for frame in DS.select([2, 1, 0]).to_pandas(batch_size=2, batched=True)] == [2, 1]


def test_sql_gives_datasets():
    labels = Features({"label": ClassLabel(names=["neg", "pos"]), "n": Value("int32")})
    ds = Dataset.from_dict({"label": [1, 0, 1, 1], "n": [1, 2, 3, 4]}, features=labels)
    counts = ds.sql("select label, count(*) as rows, sum(n) as n from self group by label order by label")
    assert counts["rows"][:] == [1, 3] and counts.features["label"] == labels["label"]
    assert ds.select([3, 0]).sql("select n from self order by n")["n"][:] == [1, 4]
    assert ds.shuffle(seed=1).filter("n > 1 and label = 1").sort("n")["n"][:] == [3, 4]
    assert ds.filter(pc.field("n") == 2)[:] == {"label": [0], "n": [2]}
    assert ds.select([3, 3, 0]).filter("n > 1")["n"][:] == [4, 4]


def test_torch_loaders_and_pickles():
    ds = Dataset.from_dict({"x": [[i, i] for i in range(10)], "y": list(range(10))}).with_format("torch")
    batches = list(torch.utils.data.DataLoader(ds, batch_size=4))
    assert batches[0]["x"].shape == (4, 2) and torch.cat([b["y"] for b in batches]).tolist() == list(range(10))
    plain = list(torch.utils.data.DataLoader(ds.with_format(None), batch_size=5))
    assert plain[1]["y"].tolist() == [5, 6, 7, 8, 9]
    again = pickle.loads(pickle.dumps(ds.shuffle(seed=2)))
    assert torch.equal(again[:]["y"], ds.shuffle(seed=2)[:]["y"]) and again.format == ds.format


def test_transforms_come_when_rows_are_looked_at():
    seen = []

    def double(batch):
        seen.append(len(batch["id"]))
        return {"twice": [2 * i for i in batch["id"]]}

    ds = DS.with_transform(double, columns=["id"], output_all_columns=True)
    assert seen == [] and ds[1]["twice"] == 2 and ds[:2]["twice"] == [0, 2] and ds[1]["score"] is None
    theirs = hf.Dataset.from_dict(COLUMNS).with_transform(double, columns=["id"], output_all_columns=True)
    assert ds[:] == theirs[:] and ds[0] == theirs[0]
    with DS.formatted_as("numpy", columns=["id"]):
        assert isinstance(DS[0]["id"], np.int64) and list(DS[0]) == ["id"]
    assert DS[0]["id"] == 0 and list(DS[0]) == list(COLUMNS)


def test_pictures_and_sound(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    image.fromarray(pixels).save(tmp_path / "a.png")
    features = {"im": {"_type": "Image"}, "au": {"sampling_rate": 8000, "_type": "Audio"}}
    sound = np.sin(np.arange(1600) / 16000 * 2 * np.pi * 440).astype(np.float32)
    rows = {"im": [str(tmp_path / "a.png"), pixels, None], "au": [{"array": sound, "sampling_rate": 16000}, None, None]}
    ds = Dataset.from_dict(rows, features=Features.from_dict(features))
    assert np.array_equal(np.asarray(ds[0]["im"]), pixels) and np.array_equal(np.asarray(ds[1]["im"]), pixels)
    assert ds[2] == {"im": None, "au": None}
    heard = ds[0]["au"]
    exact = np.sin(np.arange(800) / 8000 * 2 * np.pi * 440)
    assert heard["sampling_rate"] == 8000 and np.abs(heard["array"] - exact)[40:-40].max() < 2e-3
    ds.save_to_disk(tmp_path / "ds")
    theirs = hf.load_from_disk(tmp_path / "ds").select_columns("im")
    assert np.array_equal(np.asarray(theirs[0]["im"]), pixels)


def test_what_is_shown():
    shown = DS._repr_html_()
    assert shown.count("<tr>") == 4 and "3 rows, 4 columns" in shown and "Value(&#x27;int64&#x27;)" in shown
    assert repr(DS) == repr(hf.Dataset.from_dict(COLUMNS))
    assert repr(DatasetDict({"a": DS})) == repr(hf.DatasetDict({"a": hf.Dataset.from_dict(COLUMNS)}))
    assert "<script>" not in Dataset.from_dict({"<script>": ["<script>"]})._repr_html_()


@pytest.mark.parametrize("orient", ["columns", "index", "values"])
def test_json_of_another_shape(tmp_path, orient):
    import datasets

    rows = {"a": [1, 2], "b": ["x", "é"]}
    for made, name in ((Dataset.from_dict(rows), "ours"), (datasets.Dataset.from_dict(rows), "theirs")):
        made.to_json(tmp_path / name, lines=False, orient=orient, force_ascii=False)
    assert json.loads((tmp_path / "ours").read_text()) == json.loads((tmp_path / "theirs").read_text())
    with pytest.raises(ArgumentError, match="columns, index"):
        Dataset.from_dict(rows).to_json(tmp_path / "x", orient=orient, lines=True)
    with pytest.raises(ArgumentError, match="columns, index"):
        Dataset.from_dict(rows).to_json(tmp_path / "x", orient="rows")


def test_json_in_the_shapes_and_spellings_of_pandas(tmp_path):
    rows = {"a": [3, None], "d": [datetime.datetime(2020, 1, 2, 3), None], "f": [0.123456, 1.5]}
    for options in (
        {"date_format": "iso"},
        {"date_format": "iso", "double_precision": 3, "date_unit": "s"},
        {"orient": "split", "date_format": "iso"},
        {"orient": "columns", "indent": 2, "date_format": "iso"},
        {"orient": "table", "lines": False},
    ):
        for name, lib in (("theirs", hf), ("ours", None)):
            written = (Dataset if lib is None else lib.Dataset).from_dict(rows).to_json(tmp_path / name, **options)
            assert written == (tmp_path / name).stat().st_size
        assert (tmp_path / "ours").read_text() == (tmp_path / "theirs").read_text(), options
    assert Dataset.from_dict(rows).to_json(tmp_path / "x", lines=False)
    assert (tmp_path / "x").read_text().endswith("]\n")
    with pytest.raises(ValueError, match="date_forms"):
        Dataset.from_dict(rows).to_json(tmp_path / "x", date_forms="iso")
