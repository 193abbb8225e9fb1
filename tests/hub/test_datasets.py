"""Datasets on a Hub on loopback, through the real client: loaded, streamed, listed, described and sent."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

DATA = """
from martlet.datasets import *
from martlet.datasets import Dataset, DatasetDict
"""


def lines(first, count):
    return "".join(json.dumps({"id": i}) + "\n" for i in range(first, first + count)).encode()


def parquet(first, count):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"id": list(range(first, first + count))}), buffer)
    return buffer.getvalue()


@pytest.fixture
def run(client):
    return lambda code, **environment: client(DATA + code, **environment)


def test_splits_by_name_and_the_cache(hub, run):
    hub.put("org/data", {"train.jsonl": lines(0, 5), "test.jsonl": lines(5, 2), "README.md": b"# hello"})
    code = "ds = load_dataset('org/data'); answer({s: [r['id'] for r in d] for s, d in ds.items()})"
    expected = {"train": [0, 1, 2, 3, 4], "test": [5, 6]}
    assert run(code) == expected
    assert run(code, HF_HUB_OFFLINE="1") == expected


def test_streaming_fetches_no_file(hub, run):
    hub.put("org/data", {"a.jsonl": lines(0, 50), "b.jsonl": lines(50, 50)})
    code = (
        "ds = load_dataset('org/data', streaming=True, split='train'); answer([r['id'] for r in ds.skip(48).take(4)])"
    )
    assert run(code) == [48, 49, 50, 51]


def test_configs_of_the_readme(hub, run):
    readme = b"---\nconfigs:\n- config_name: one\n  data_files: one/*.jsonl\n- config_name: two\n  data_files:\n"
    readme += b"  - split: dev\n    path: two.jsonl\n---\n"
    hub.put("org/data", {"README.md": readme, "one/a.jsonl": lines(0, 2), "two.jsonl": lines(2, 3)})
    assert run("answer(get_dataset_config_names('org/data'))") == ["one", "two"]
    assert run("answer(get_dataset_split_names('org/data', 'two'))") == ["dev"]
    assert run("answer({k: list(i.splits) for k, i in get_dataset_infos('org/data').items()})") == {
        "one": ["train"],
        "two": ["dev"],
    }
    assert run("answer([r['id'] for r in load_dataset('org/data', 'two', split='dev')])") == [2, 3, 4]
    found = run("load_dataset('org/data')")
    assert found["error"] == "ArgumentError" and "one, two" in found["says"]


def test_the_parquet_branch(hub, run):
    hub.put("org/data", {"data.py": b"raise SystemExit"})
    hub.put("org/data", {"plain/train/0000.parquet": parquet(0, 3)}, "refs/convert/parquet")
    assert run("answer([r['id'] for r in load_dataset('org/data', split='train')])") == [0, 1, 2]


def test_revisions_patterns_and_absence(hub, run):
    old = hub.put("org/data", {"a.jsonl": lines(0, 1)})
    hub.put("org/data", {"a.jsonl": lines(7, 1), "sub/b.jsonl": lines(9, 1)})
    assert run(f"answer(load_dataset('org/data', revision={old!r})['train'][0]['id'])") == 0
    assert run("answer([r['id'] for r in load_dataset('org/data', data_files='sub/*')['train']])") == [9]
    assert run("load_dataset('org/none')")["error"] == "DatasetNotFoundError"
    assert "b.jsonl" in run("load_dataset('org/data', data_files='nothing*')")["says"]


def test_list_datasets(hub, run):
    for name in ("org/a", "org/much-longer", "else/b"):
        hub.put(name, {"a.jsonl": lines(0, 1)})
    assert run("answer([d.id for d in list_datasets(author='org', sort='downloads')])") == ["org/much-longer", "org/a"]
    assert run("answer([d.id for d in list_datasets(search='a', limit=1)])") == ["org/a"]


def test_push_and_load_again(hub, run):
    code = """
features = Features({"id": Value("int64"), "label": ClassLabel(names=["no", "yes"]), "tags": List(Value("string"))})
rows = {"id": list(range(30)), "label": [i % 2 for i in range(30)], "tags": [["t"] * (i % 3) for i in range(30)]}
ds = DatasetDict(train=Dataset.from_dict(rows, features), test=Dataset.from_dict(rows, features).take(4))
ds.push_to_hub("me/made", num_shards={"train": 3, "test": 1})
again = load_dataset("me/made", download_mode="force_redownload")
same = {split: again[split][:] == ds[split][:] for split in ds}
ds["train"].take(6).push_to_hub("me/made", split="train")
less = load_dataset("me/made", revision="main", split="train", download_mode="force_redownload")
answer([same, again["train"].features == features, len(less)])
"""
    assert run(code)[:2] == [{"train": True, "test": True}, True]
    files = hub.commits["me/made"][hub.refs["me/made"]["main"]]
    assert sorted(files) == ["README.md", "data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"]
    assert b"class_label" in files["README.md"]


def test_their_library_reads_what_we_sent(hub, run, tmp_path):
    import datasets

    run("Dataset.from_dict({'id': [1, 2], 'x': [[1.5], []]}).push_to_hub('me/made'); answer(1)")
    for name, data in hub.commits["me/made"][hub.refs["me/made"]["main"]].items():
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / name).write_bytes(data)
    made = datasets.load_dataset(str(tmp_path / "copy"), cache_dir=str(tmp_path / "cache"))
    assert made["train"][:] == {"id": [1, 2], "x": [[1.5], []]}


def test_https_and_other_file_systems(hub, run, tmp_path):
    hub.put("org/data", {"a.jsonl": lines(0, 3)})
    url = f"{hub.url}/datasets/org/data/resolve/main/a.jsonl"
    pytest.importorskip("aiohttp")
    assert run(f"answer([r['id'] for r in load_dataset('json', data_files={url!r}, split='train')])") == [0, 1, 2]
    code = """
import fsspec
with fsspec.open("memory://box/a.csv", "w") as file:
    file.write("a,b\\n1,2\\n")
answer(load_dataset("csv", data_files="memory://box/*.csv", split="train")[0])
"""
    assert run(code) == {"a": 1, "b": 2}


def test_streams_are_sent_too(hub, run):
    code = """
def rows(parts):
    for part in parts:
        yield from ({"id": 10 * part + i, "text": "x" * i} for i in range(10))

stream = IterableDataset.from_generator(rows, gen_kwargs={"parts": [0, 1, 2]})
stream.map(lambda row: {"twice": 2 * row["id"]}).push_to_hub("me/made", split="train")
stream.push_to_hub("me/parts", split="train", num_shards=2)
stream.push_to_hub("me/small", split="train", max_shard_size="1KB")
IterableDatasetDict(train=stream, test=stream.take(3)).push_to_hub("me/both", "one", num_shards={"test": 1})
made, parts = (load_dataset(name, split="train") for name in ("me/made", "me/parts"))
both = load_dataset("me/both", "one")
again = sorted(parts["id"]) == list(range(30))
small = load_dataset("me/small", split="train")
answer([made["twice"][:3], again, {split: len(ds) for split, ds in both.items()}, len(small)])
"""
    assert run(code) == [[0, 2, 4], True, {"train": 30, "test": 3}, 30]
    files = hub.commits["me/parts"][hub.refs["me/parts"]["main"]]
    assert sorted(files) == ["README.md", "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]


def test_pictures_with_metadata_are_streamed(hub, run):
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, "PNG")
    lines = b"".join(json.dumps({"file_name": f"{i}.png", "n": i}).encode() + b"\n" for i in (1, 0))
    files = {f"train/{i}.png": buffer.getvalue() for i in range(2)}
    hub.put("org/seen", {**files, "train/metadata.jsonl": lines})
    code = "answer([(r['n'], r['image'].size) for r in load_dataset('org/seen', split='train', streaming=%s)])"
    for streaming in (True, False):
        assert run(code % streaming) == [[1, [3, 2]], [0, [3, 2]]]


def test_pictures_of_a_stream_are_sent_as_they_are(hub, run, tmp_path):
    from PIL import Image

    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    code = f"""
stream = load_dataset("imagefolder", data_files={str(tmp_path / "a.png")!r}, split="train", streaming=True)
stream.push_to_hub("me/seen")
made = load_dataset("me/seen", split="train")
raw = made.cast_column("image", Image(decode=False))[0]["image"]
answer([made[0]["image"].size, raw["bytes"] == open({str(tmp_path / "a.png")!r}, "rb").read(), raw["path"]])
"""
    assert run(code) == [[3, 2], True, "a.png"]


@pytest.mark.parametrize("kind", ["ds", "ds.to_iterable_dataset()"])
def test_pictures_in_lists_are_sent_with_their_bytes(hub, run, tmp_path, kind):
    picture = pytest.importorskip("PIL.Image").new("RGB", (2, 3), (9, 8, 7))
    picture.save(tmp_path / "a.png")
    code = f"""
ds = Dataset.from_dict({{"i": [[{str(tmp_path / "a.png")!r}]]}}, features=Features({{"i": List(Image())}}))
{kind}.push_to_hub("me/pictures", split="train")
import os; os.remove({str(tmp_path / "a.png")!r})
(row,) = load_dataset("me/pictures", split="train")
answer([row["i"][0].size, row["i"][0].getpixel((0, 0))])
"""
    assert run(code) == [[2, 3], [9, 8, 7]]
