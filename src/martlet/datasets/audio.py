"""Audio: sound kept as files or bytes, decoded by soundfile when a row is looked at, resampled here."""

from __future__ import annotations

import io
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from martlet.datasets.image import STORAGE, file_storage, open_file
from martlet.datasets.kinds import Value
from martlet.errors import ArgumentError, FeatureError, MissingDependencyError

ZEROS = 32  # zero crossings of the resampling filter on each side


@dataclass
class Audio:
    """Sound: a path, bytes, {"path", "bytes"} or {"array", "sampling_rate"} goes in; out comes
    {"path", "array", "sampling_rate"}, float32 of shape (samples,) for one channel, (channels, samples) for more.

    `sampling_rate` resamples, in Hz; `num_channels=1` mixes down; `decode=False` gives {"path", "bytes"} back.
    """

    sampling_rate: int | None = None
    decode: bool = True
    num_channels: int | None = None
    stream_index: int | None = None
    id: str | None = field(default=None, repr=False)
    dtype: ClassVar[str] = "dict"
    pa_type: ClassVar[Any] = STORAGE
    _type: str = field(default="Audio", init=False, repr=False)

    def __post_init__(self) -> None:
        if self.num_channels not in (None, 1, 2):
            raise ArgumentError("Audio", "num_channels must be None, 1 or 2", found=self.num_channels)
        if self.stream_index not in (None, 0):
            raise ArgumentError("Audio", "a sound file has one stream, number 0", found=self.stream_index)

    def __call__(self) -> pa.DataType:
        return self.pa_type

    def encode_example(self, value: Any) -> dict[str, Any]:
        """{"path", "bytes"}; an array becomes a WAV file of floats."""
        if isinstance(value, str | os.PathLike):
            return {"path": value if isinstance(value, str) else str(Path(value).absolute()), "bytes": None}
        if isinstance(value, bytes | bytearray):
            return {"path": None, "bytes": bytes(value)}
        if isinstance(value, dict) and value.get("array") is not None:
            if value.get("sampling_rate") is None:
                raise FeatureError("Audio", "an array needs its sampling_rate", found="none")
            array, buffer = np.asarray(value["array"], dtype=np.float32), io.BytesIO()
            _soundfile().write(buffer, array.T, int(value["sampling_rate"]), format="WAV", subtype="FLOAT")
            return {"path": None, "bytes": buffer.getvalue()}
        if isinstance(value, dict):
            path = value.get("path")
            if path is not None and os.path.isfile(path):
                return {"path": path, "bytes": None}
            if value.get("bytes") is not None or path is not None:
                return {"path": path, "bytes": value.get("bytes")}
        raise FeatureError("Audio", "takes a path, bytes, or an array with sampling_rate", found=repr(value)[:80])

    def decode_example(self, value: Any) -> Any:
        """{"path", "array", "sampling_rate"}, which has the methods of torchcodec's decoder too."""
        if not isinstance(value, dict) or "bytes" not in value:
            return value
        source = value["path"] if value["bytes"] is None else io.BytesIO(value["bytes"])
        if source is None:
            raise FeatureError("Audio", "needs a path or bytes", found="neither")
        library = _soundfile()
        try:
            with open_file(source) as file:
                frames, rate = library.read(file, dtype="float32", always_2d=True)
        except (OSError, library.LibsndfileError) as problem:
            raise FeatureError("Audio", f"{value['path'] or 'the bytes'} cannot be decoded", found=problem) from problem
        sound = frames.T
        if self.num_channels == 1:
            sound = sound.mean(axis=0, keepdims=True)
        elif self.num_channels == 2 and len(sound) == 1:
            sound = np.repeat(sound, 2, axis=0)
        elif self.num_channels == 2 and len(sound) != 2:
            raise FeatureError("Audio", "num_channels=2 needs one or two channels", found=len(sound))
        if self.sampling_rate and self.sampling_rate != rate:
            sound, rate = np.stack([resampled(row, rate, self.sampling_rate) for row in sound]), self.sampling_rate
        array = sound[0] if len(sound) == 1 else sound
        return DecodedAudio({"path": value["path"], "array": array, "sampling_rate": int(rate)})

    def cast_storage(self, storage: pa.Array) -> pa.Array:
        """Arrow paths, bytes or structs as our struct."""
        if pa.types.is_struct(storage.type) and storage.type.get_field_index("array") >= 0:
            rows = [None if row is None else self.encode_example(row) for row in storage.to_pylist()]
            return pa.array(rows, STORAGE)
        return file_storage(storage, "Audio")

    def flatten(self) -> Any:
        """Bytes and path; a decoded sound has no columns of its own."""
        return self if self.decode else {"bytes": Value("binary"), "path": Value("string")}


@dataclass(frozen=True)
class AudioSamples:
    """Samples as a torch tensor [channels, samples], where they begin, and how long they last."""

    data: Any
    pts_seconds: float
    duration_seconds: float
    sample_rate: int


class DecodedAudio(dict[str, Any]):
    """{"path", "array", "sampling_rate"}, and what scripts ask torchcodec's AudioDecoder for."""

    def get_all_samples(self) -> AudioSamples:
        """All of it."""
        return self.get_samples_played_in_range()

    def get_samples_played_in_range(
        self, start_seconds: float = 0.0, stop_seconds: float | None = None
    ) -> AudioSamples:
        """The samples from `start_seconds` up to `stop_seconds`, or the end."""
        import torch

        rate, sound = self["sampling_rate"], np.atleast_2d(self["array"])
        begin = round(start_seconds * rate)
        end = sound.shape[1] if stop_seconds is None else min(round(stop_seconds * rate), sound.shape[1])
        if not 0 <= begin < max(end, 1):
            length = sound.shape[1] / rate
            rule = f"must be a range within 0 to {length:g} seconds"
            raise ArgumentError("get_samples_played_in_range()", rule, found=f"{start_seconds} to {stop_seconds}")
        data = torch.from_numpy(np.ascontiguousarray(sound[:, begin:end]))
        return AudioSamples(data, begin / rate, (end - begin) / rate, rate)


def resampled(sound: NDArray[np.float32], rate: int, target: int) -> NDArray[np.float32]:
    """The sound at another rate, by a Hann-windowed sinc cut at 0.99 of the lower rate's half (Smith 1984)."""
    divisor = math.gcd(rate, target)
    up, down = target // divisor, rate // divisor
    num_out = math.ceil(len(sound) * up / down)
    cutoff = 0.99 * min(1.0, target / rate)
    width = math.ceil(ZEROS / cutoff)
    padded = np.pad(sound.astype(np.float64), width)
    out = np.empty(num_out, np.float64)
    offsets = np.arange(-width + 1, width + 1)
    for phase in range(min(up, num_out)):
        picked = np.arange(phase, num_out, up)
        base, fraction = divmod(picked * down, up)
        time = offsets - fraction[0] / up  # the same for every output of a phase
        taps = cutoff * np.sinc(cutoff * time) * (0.5 + 0.5 * np.cos(np.pi * np.clip(time / width, -1, 1)))
        for begin in range(0, len(picked), 1 << 14):  # bounds the gathered windows to some MB
            rows = base[begin : begin + (1 << 14), None] + width + offsets
            out[picked[begin : begin + (1 << 14)]] = np.take(padded, rows, mode="clip") @ taps
    return out.astype(np.float32)


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError as problem:
        raise MissingDependencyError("Audio", "needs soundfile", remedy="pip install soundfile") from problem
    return soundfile
