"""Pictures and sound as the guides of Hugging Face's library handle them, beside that library where it can."""

import gc
import json
from pathlib import Path
from typing import Any

import datasets as hf
import numpy as np
import pandas as pd
import pytest
import torch

from martlet.datasets import Audio, Dataset, Image, load_dataset
from martlet.errors import ArgumentError

pillow = pytest.importorskip("PIL.Image")
theirs_leak = pytest.mark.filterwarnings(  # it does not close the metadata it reads
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


def load_theirs(*args: Any, **kwargs: Any) -> Any:
    """Their dataset; what it left open is collected here, where it is looked away from, and not in a later test."""
    made = hf.load_dataset(*args, **kwargs)
    gc.collect()
    return made


def plain(value: Any) -> Any:
    if isinstance(value, pillow.Image):
        return (value.mode, value.size, np.asarray(value).tolist())
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    top = tmp_path / "pictures"
    for number, name in enumerate(("dog/a", "dog/b", "cat/c")):
        path = top / "labelled" / "train" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pillow.new("RGB", (4, 3), (number, 20, 30)).save(path)
    for kind in ("csv", "jsonl", "parquet", "pairs", "frames"):
        (top / kind / "train").mkdir(parents=True)
        for number in range(4):
            pillow.new("RGB", (2, 2), (number, 0, 0)).save(top / kind / "train" / f"{number}.png")
    table = pd.DataFrame({"file_name": ["0.png", "1.png", "2.png"], "text": ["x", "y", "z"], "score": [1.5, 2.0, 3.0]})
    table.to_csv(top / "csv" / "train" / "metadata.csv", index=False)
    table.to_parquet(top / "parquet" / "train" / "metadata.parquet")
    boxes = [{"file_name": "0.png", "objects": {"bbox": [[1.0, 2.0, 3.0, 4.0]], "categories": [0]}}]
    pairs = [{"input_file_name": "0.png", "output_file_name": "1.png", "prompt": "u"}]
    frames = [{"frames_file_names": ["0.png", "1.png"], "label": "a"}]
    for kind, rows in (("jsonl", boxes), ("pairs", pairs), ("frames", frames)):
        (top / kind / "train" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return top


@theirs_leak
@pytest.mark.parametrize("kind", ["labelled", "csv", "jsonl", "parquet", "pairs", "frames"])
def test_folders_of_pictures(folder: Path, tmp_path: Path, kind: str):
    where = {"data_dir": str(folder / kind), "split": "train"}
    theirs = load_theirs("imagefolder", **where, cache_dir=str(tmp_path / "hf"))
    ours = load_dataset("imagefolder", **where)
    assert plain(list(ours)) == plain(list(theirs)) and list(ours.features) == list(theirs.features)
    assert plain(list(load_dataset("imagefolder", **where, streaming=True))) == plain(list(theirs))


@theirs_leak
@pytest.mark.parametrize("streaming", [False, True])
def test_filters_of_folders(folder: Path, tmp_path: Path, streaming: bool):
    for kind, filters in (("csv", [("score", ">", 1.6)]), ("parquet", [("text", "in", ["x", "z"])])):
        where = {"data_dir": str(folder / kind), "split": "train", "filters": filters}
        theirs = list(load_theirs("imagefolder", **where, cache_dir=str(tmp_path / "hf")))
        found = load_dataset("imagefolder", **where, streaming=streaming)
        assert plain(list(found)) == plain(theirs) and len(theirs) == 2
    where = {"data_dir": str(folder / "labelled"), "split": "train", "streaming": streaming}
    labels = [row["label"] for row in load_dataset("imagefolder", **where, filters=[("label", "=", 1)])]
    assert labels == [1, 1]
    with pytest.raises(ArgumentError, match=r"filters: cannot be evaluated.*The columns are label"):
        list(load_dataset("imagefolder", **where, filters=[("breed", "=", 1)]))


def test_a_batched_transform_of_pictures(folder: Path):
    def resized(batch: Any) -> Any:
        batch["pixels"] = [picture.convert("L").resize((6, 6)) for picture in batch["image"]]
        return batch

    ds = load_dataset("imagefolder", data_dir=str(folder / "labelled"), split="train")
    made = ds.map(resized, remove_columns=["image"], batched=True)
    assert made.column_names == ["label", "pixels"] and made[0]["pixels"].size == (6, 6)
    assert ds.cast_column("image", Image(mode="L"))[0]["image"].mode == "L"
    files = [row["image"] for row in ds.cast_column("image", Image(decode=False))]
    assert [Path(file["path"]).name for file in files] == ["c.png", "a.png", "b.png"]


def test_sound_has_the_methods_of_a_decoder(tmp_path: Path):
    library = pytest.importorskip("soundfile", reason="decodes sound")
    wave = np.linspace(-0.5, 0.5, 800, dtype=np.float32)
    library.write(tmp_path / "a.wav", np.stack([wave, -wave], 1), 8000, subtype="FLOAT")
    ds = Dataset.from_dict({"audio": [str(tmp_path / "a.wav")]}).cast_column("audio", Audio())
    sound = ds[0]["audio"]
    whole = sound.get_all_samples()
    assert whole.data.shape == (2, 800) and whole.sample_rate == 8000 and whole.duration_seconds == 0.1
    assert torch.equal(whole.data, torch.from_numpy(sound["array"])) and sound["sampling_rate"] == 8000
    part = sound.get_samples_played_in_range(0.025, 0.05)
    assert torch.equal(part.data, whole.data[:, 200:400]) and part.pts_seconds == 0.025
    with pytest.raises(ArgumentError, match=r"within 0 to 0\.1 seconds"):
        sound.get_samples_played_in_range(3.0)
    again = ds.map(lambda row: {"sound": row["audio"], "length": len(row["audio"]["array"][0])})
    assert again[0]["length"] == 800
