"""What Hugging Face's own tests of features ask of the public surface, each beside their library."""

from pathlib import Path
from typing import Any

import datasets as hf
import numpy as np
import PIL.Image
import pytest

import martlet.datasets as ours
from martlet.errors import FeatureError

hf.disable_progress_bars()
BOTH = pytest.mark.parametrize("lib", [ours, hf], ids=["ours", "theirs"])


@BOTH
def test_a_column_may_be_named_self(lib: Any) -> None:
    features = lib.Features(self=lib.Value("string"))
    assert list(features) == ["self"] and lib.Features.from_dict(features.to_dict()) == features


@BOTH
def test_labels_that_no_loss_counts_stay_labels(lib: Any) -> None:
    kind = lib.List(lib.ClassLabel(names=["a", "b"]))
    ds = lib.Dataset.from_dict({"y": [[0, 1]]}, features=lib.Features({"y": kind}))
    made = ds.map(lambda row: {"y": [-100, *row["y"]]})
    assert made.features == {"y": kind} and made[:] == {"y": [[-100, 0, 1]]}
    assert lib.Dataset.from_dict({"y": [[-100, 0]]}, features=lib.Features({"y": kind}))[0] == {"y": [-100, 0]}


def test_other_numbers_are_no_labels() -> None:
    for number in (2, -2, -99):
        with pytest.raises(FeatureError, match="the numbers are"):
            ours.ClassLabel(names=["a", "b"]).encode_example(number)


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "int32", "float64"])
@pytest.mark.parametrize("form", ["numpy", "torch"])
def test_an_array_that_is_not_there_is_not_a_number(lib: Any, dtype: str, form: str) -> None:
    features = lib.Features({"i": lib.Array2D((2, 2), dtype)})
    ds = lib.Dataset.from_dict({"i": [np.ones((2, 2)), None]}, features=features).with_format(form)
    assert tuple(ds[1]["i"].shape) == (2, 2) and np.isnan(np.asarray(ds[1]["i"])).all()
    batch = np.asarray(ds[:]["i"])
    assert batch.shape == (2, 2, 2) and batch.dtype == np.float32
    assert (batch[0] == 1).all() and np.isnan(batch[1]).all()


@BOTH
def test_arrays_in_pandas_have_their_shape(lib: Any) -> None:
    features = lib.Features({"i": lib.Array3D((None, 2, 2), "float32")})
    ds = lib.Dataset.from_dict({"i": [np.ones((n, 2, 2)) for n in (1, 3)]}, features=features)
    for frame in (ds.to_pandas(), ds.with_format("pandas")[:]):
        assert [row.shape for row in frame["i"]] == [(1, 2, 2), (3, 2, 2)]
        assert all(row.dtype == np.float32 for row in frame["i"])


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.jpg"
    PIL.Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(path)
    return str(path)


@BOTH
def test_a_picture_knows_its_file_and_keeps_it(lib: Any, photo: str) -> None:
    ds = lib.Dataset.from_dict({"i": [photo]}).cast_column("i", lib.Image())
    assert ds[0]["i"].filename == photo and ds[0]["i"].format == "JPEG"
    made = ds.map(lambda row: {**row, "mode": row["i"].mode})
    assert made.cast_column("i", lib.Image(decode=False))[0]["i"] == {"path": photo, "bytes": None}
    small = ds.map(lambda row: {"i": row["i"].resize((2, 2))})
    assert small[0]["i"].size == (2, 2)
    assert small.cast_column("i", lib.Image(decode=False))[0]["i"]["path"] is None


@pytest.mark.parametrize("in_file", [True, False])
def test_a_picture_that_was_drawn_upon_is_written_anew_and_one_that_was_not_is_kept(photo: str, in_file: bool) -> None:
    given = {"path": photo, "bytes": None} if in_file else {"path": None, "bytes": Path(photo).read_bytes()}
    ds = ours.Dataset.from_dict({"i": [given]}, features=ours.Features({"i": ours.Image()}))

    def drawn(row: dict[str, Any]) -> dict[str, Any]:
        row["i"].putpixel((0, 0), (1, 2, 3))
        return {**row}

    def stored(lib_ds: ours.Dataset) -> Any:
        return lib_ds.cast_column("i", ours.Image(decode=False))[0]["i"]

    assert stored(ds.map(lambda row: {**row})) == given
    assert ds.map(drawn)[0]["i"].getpixel((0, 0)) == (1, 2, 3)
    assert ds[0]["i"].getpixel((0, 0)) != (1, 2, 3)


@BOTH
def test_files_in_lists_and_structs_are_embedded(lib: Any, photo: str) -> None:
    features = lib.Features({"many": lib.List(lib.Image()), "in": {"one": lib.Image(), "n": lib.Value("int64")}})
    rows = {"many": [[photo, photo], None], "in": [{"one": photo, "n": 1}, {"one": None, "n": 2}]}
    table = lib.Dataset.from_dict(rows, features=features).with_format("arrow")[:]
    made = lib.table.embed_table_storage(table).to_pylist()
    whole = {"bytes": Path(photo).read_bytes(), "path": "photo.jpg"}
    assert [row["many"] for row in made] == [[whole, whole], None]
    assert [row["in"] for row in made] == [{"one": whole, "n": 1}, {"one": None, "n": 2}]


@BOTH
def test_a_version_has_the_hash_of_the_text_it_equals(lib: Any) -> None:
    assert lib.Version("1.0.0") == "1.0.0" and hash(lib.Version("1.0.0")) == hash("1.0.0")
