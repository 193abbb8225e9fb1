"""Image: pictures kept as files or bytes, decoded by Pillow when a row is looked at."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from martlet.datasets.kinds import Value
from martlet.errors import FeatureError, MissingDependencyError

STORAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


@dataclass
class Image:
    """A picture: a path, bytes, {"path", "bytes"}, an array or a PIL image goes in, a PIL image comes out.

    `mode` converts ("RGB", "L", ...); `decode=False` gives {"path", "bytes"} back. Orientation by EXIF is applied.
    """

    mode: str | None = None
    decode: bool = True
    id: str | None = field(default=None, repr=False)
    dtype: ClassVar[str] = "PIL.Image.Image"
    pa_type: ClassVar[Any] = STORAGE
    _type: str = field(default="Image", init=False, repr=False)

    def __call__(self) -> pa.DataType:
        return self.pa_type

    def encode_example(self, value: Any) -> dict[str, Any]:
        """{"path", "bytes"}; arrays and PIL images become PNG or TIFF bytes."""
        if isinstance(value, str | os.PathLike):
            return {"path": value if isinstance(value, str) else str(Path(value).absolute()), "bytes": None}
        if isinstance(value, bytes | bytearray):
            return {"path": None, "bytes": bytes(value)}
        if hasattr(value, "detach"):
            value = value.detach().cpu().numpy()
        if isinstance(value, list):
            value = np.array(value)
        if isinstance(value, np.ndarray):
            return {"path": None, "bytes": _picture_bytes(_picture_of(value))}
        if isinstance(value, dict):
            path = value.get("path")
            if path is not None and os.path.isfile(path):
                return {"path": path, "bytes": None}
            if value.get("bytes") is not None or path is not None:
                return {"path": path, "bytes": value.get("bytes")}
        elif type(value).__module__.split(".")[0] == "PIL":
            source = _source_of(value)
            return {"path": None, "bytes": _picture_bytes(value)} if source is None else source
        raise FeatureError("Image", "takes a path, bytes, an array or a PIL image", found=repr(value)[:80])

    def decode_example(self, value: Any) -> Any:
        """The PIL image, loaded."""
        if not isinstance(value, dict):
            return value
        pil = _pillow()
        from PIL import ImageOps

        source = value["path"] if value["bytes"] is None else io.BytesIO(value["bytes"])
        if source is None:
            raise FeatureError("Image", "needs a path or bytes", found="neither")
        try:
            with open_file(source) as file:
                picture = pil.open(file)
                picture.load()
            if isinstance(source, str):
                picture.filename = source
            picture.martlet_source = value
        except (OSError, pil.DecompressionBombError) as problem:
            raise FeatureError("Image", f"{value['path'] or 'the bytes'} cannot be decoded", found=problem) from problem
        if picture.getexif().get(0x0112) is not None:
            picture = ImageOps.exif_transpose(picture)
        return picture.convert(self.mode) if self.mode and self.mode != picture.mode else picture

    def cast_storage(self, storage: pa.Array) -> pa.Array:
        """Arrow paths, bytes, structs or nested lists of pixels as our struct."""
        if pa.types.is_list(storage.type):
            pictures = [None if row is None else self.encode_example(row) for row in storage.to_pylist()]
            return pa.array(pictures, STORAGE)
        return file_storage(storage, "Image")

    def flatten(self) -> Any:
        """Itself while it decodes, else bytes and path."""
        return self if self.decode else {"bytes": Value("binary"), "path": Value("string")}


def file_storage(storage: pa.Array, name: str) -> pa.Array:
    """Arrow paths, bytes or structs as a struct of bytes and path."""
    kind, empty = storage.type, pa.nulls(len(storage), pa.null())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        parts = (empty, storage)
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        parts = (storage, empty)
    elif pa.types.is_struct(kind):
        parts = tuple(storage.field(key) if kind.get_field_index(key) >= 0 else empty for key in ("bytes", "path"))
    elif pa.types.is_null(kind):
        return storage.cast(STORAGE)
    else:
        raise FeatureError(name, "can be cast from strings, binaries and structs of bytes and path", found=kind)
    columns = [part.cast(sub.type) for part, sub in zip(parts, STORAGE, strict=True)]
    return pa.StructArray.from_arrays(columns, fields=list(STORAGE), mask=storage.is_null())


def open_file(source: Any) -> Any:
    """A local path, a file object, or a URL through fsspec, opened for reading bytes."""
    if not isinstance(source, str):
        return source
    if "://" not in source:
        return open(source, "rb")
    import fsspec

    return fsspec.open(source, "rb").open()


def _pillow() -> Any:
    try:
        import PIL.Image
    except ImportError as problem:
        raise MissingDependencyError("Image", "needs Pillow", remedy="pip install pillow") from problem
    return PIL.Image


def _source_of(picture: Any) -> dict[str, Any] | None:
    """The file or bytes that a picture was read from, if it still shows what they do."""
    filename = getattr(picture, "filename", "")
    source: dict[str, Any] | None = getattr(picture, "martlet_source", None)
    if source is None and filename and os.path.isfile(filename):
        source = {"path": filename, "bytes": None}
    if source is None or getattr(picture, "tile", None):  # tiles: not loaded yet, so not drawn upon either
        return source
    with open_file(source["path"] if source["bytes"] is None else io.BytesIO(source["bytes"])) as file:
        fresh = _pillow().open(file)
        same = (fresh.mode, fresh.size) == (picture.mode, picture.size) and fresh.tobytes() == picture.tobytes()
    return source if same else None


def _picture_bytes(picture: Any) -> bytes:
    buffer = io.BytesIO()
    kind = "PNG" if picture.mode in ("1", "L", "LA", "RGB", "RGBA", "P", "I;16") else "TIFF"
    kept = getattr(picture, "format", None)
    picture.save(buffer, format=kept if kept in ("PNG", "TIFF", "BMP", "GIF", "WEBP") else kind)
    return buffer.getvalue()


def _picture_of(array: np.ndarray[Any, Any]) -> Any:
    """Pixels of several channels are bytes; a single channel keeps 8, 16 or 32 bits where Pillow has them."""
    pil = _pillow()
    if array.ndim == 3 or array.dtype == np.bool_:
        wide = array.astype(np.uint8)
        if array.dtype.kind not in "uib" or not np.array_equal(wide, array):
            raise FeatureError("Image", "pixels of several channels must be integers 0 to 255", found=array.dtype)
        return pil.fromarray(wide)
    if array.dtype.kind == "i":
        target = next((t for t in (np.uint8, np.uint16, np.int32) if np.array_equal(array.astype(t), array)), None)
    else:
        target = {"u1": np.uint8, "u2": np.uint16, "f4": np.float32, "f8": np.float32}.get(array.dtype.str[1:])  # type: ignore[assignment]
    if target is None:
        raise FeatureError("Image", "Pillow has no picture of this type", found=array.dtype)
    return pil.fromarray(array.astype(target))
