"""A checkpoint's weights in the engine: packed as they are stored, embeddings read from the file row by row."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from martlet.arch import EMBEDDING, HEAD, Arch, Rope, tensors
from martlet.engine.extension import count_threads, find_isa, native
from martlet.engine.rows import Rows
from martlet.engine.session import EngineSession
from martlet.errors import ArgumentError, UnsupportedError, WeightsError
from martlet.formats.tensors import TensorSource, to_float32
from martlet.weights import Piece

POSITIONS = "model.embed_positions.weight"
QUANTIZED = {"int8": "Q8_0", "int4": "Q4_0"}
_PLAIN: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


@dataclass(slots=True)
class EngineModel:
    """A model the engine can step: a `Backend` of generation, without torch."""

    arch: Arch
    ropes: tuple[Rope, ...]  # the distinct ones, in the order the engine numbers them
    handle: Any
    isa: str
    num_threads: int
    kinds: Mapping[str, str]  # tensor -> how it is packed
    kv_cache_bytes: int | None = None  # None: no limit
    _rows: dict[int, Rows] = field(default_factory=dict, repr=False)  # by process: threads do not survive a fork

    def open_session(self, kv_cache_bytes: int | None = None) -> EngineSession:
        """Rows to step through, in the pages of this model; with `kv_cache_bytes`, in as many of its own."""
        if kv_cache_bytes is not None:
            return EngineSession(self, Rows(self, kv_cache_bytes))
        return EngineSession(self, self.rows)

    @property
    def rows(self) -> Rows:
        """What the sessions of this process share."""
        process = os.getpid()
        return self._rows.get(process) or self._rows.setdefault(process, Rows(self, self.kv_cache_bytes))

    @property
    def packed_bytes(self) -> int:
        """Memory of the packed matrices."""
        size: int = self.handle.packed_bytes
        return size


def build_engine_model(
    arch: Arch,
    source: TensorSource,
    pieces: Mapping[str, Piece],
    *,
    quantize: str | None = None,
    isa: str | None = None,
    num_threads: int | None = None,
    kv_cache_bytes: int | None = None,
) -> EngineModel:
    """Packs every weight. `quantize` "int8" or "int4" packs float matrices in blocks of 32 numbers to a scale.

    Matrices stay in the type they are stored in. UnsupportedError names a tensor whose type has no kernels,
    WeightsError a vector with NaN or infinity. `kv_cache_bytes`: most memory for keys and values of all sessions.
    """
    if quantize is not None and quantize not in QUANTIZED:
        raise ArgumentError("quantize", f"must be one of {', '.join(QUANTIZED)}", found=repr(quantize))
    _refuse(arch)
    packer = _Packer(source, pieces, QUANTIZED.get(quantize or ""), count_threads(num_threads))
    ropes = tuple(dict.fromkeys(layer.rope for layer in arch.layers if layer.rope))
    handle = native().Model(_fields(arch, ropes, packer))
    kinds: dict[str, str] = {}
    try:
        for name, shape in tensors(arch).items():
            if name in (EMBEDDING, POSITIONS):
                kind, data = packer.table(name)
                handle.set_table(name, kind, data, *shape)
                kinds[name] = kind
            elif len(shape) == 1:
                handle.set_vector(name, packer.vector(name))
            else:
                packed = packer.matrix(name, shape)
                handle.set_matrix(name, packed)
                kinds[name] = packed.kind
        if arch.tied:
            packed = packer.matrix(EMBEDDING, tensors(arch)[EMBEDDING])
            handle.set_matrix(HEAD, packed)
            kinds[HEAD] = packed.kind
        handle.check()
    except ValueError as error:
        if isinstance(error, (ArgumentError, UnsupportedError, WeightsError)):
            raise
        raise WeightsError("engine", str(error)) from error
    model = EngineModel(arch, ropes, handle, find_isa(isa), packer.num_threads, kinds, kv_cache_bytes)
    model.rows  # noqa: B018  # a limit that cannot be kept is refused here
    return model


def _refuse(arch: Arch) -> None:
    """UnsupportedError for a field of the arch that the engine does not compute."""
    computed = {"causal": True, "token_types": 0, "embed_norm": False, "pooler": False, "head_transform": False}
    for name, value in computed.items():
        if getattr(arch, name) != value:
            raise UnsupportedError(
                "native engine",
                f"computes architectures whose {name} is {value!r}",
                found=repr(getattr(arch, name)),
                remedy="Load the model with backend='torch'.",
            )


def _fields(arch: Arch, ropes: tuple[Rope, ...], packer: _Packer) -> dict[str, Any]:
    names = (
        "vocab_size hidden_size intermediate_size num_attention_heads num_key_value_heads head_dim norm_eps final_norm "
        "position_table position_offset embedding_size score_scale attn_softcap gated residual_scale logit_scale "
        "logit_softcap"
    )
    fields = {name: getattr(arch, name) for name in names.split()}
    for name in ("norm", "placement", "qk_norm", "activation"):
        fields[name] = getattr(arch, name).value
    scale = np.float32(arch.embed_scale)
    if packer.dtype(EMBEDDING) == "BF16":  # the scale is rounded to the weights' dtype, as Gemma was trained
        scale = np.frombuffer(_round_to_bf16(scale).tobytes(), "<f4")[0]
    elif packer.dtype(EMBEDDING) == "F16":
        scale = np.float32(np.float16(scale))
    fields["embed_scale"] = float(scale)
    fields["layer_ropes"] = [ropes.index(layer.rope) if layer.rope else -1 for layer in arch.layers]
    fields["layer_windows"] = [layer.window for layer in arch.layers]
    fields["rotated"] = [rope.num_rotated(arch.head_dim) for rope in ropes]
    fields["attention_factors"] = [rope.attention_factor for rope in ropes]
    return fields


def _round_to_bf16(x: np.float32) -> NDArray[np.uint32]:
    bits = np.frombuffer(np.float32(x).tobytes(), "<u4")
    rounded: NDArray[np.uint32] = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded


class _Packer:
    """Reads tensors of one checkpoint in the forms the engine takes."""

    def __init__(
        self, source: TensorSource, pieces: Mapping[str, Piece], quantized: str | None, num_threads: int
    ) -> None:
        self.source, self.pieces, self.quantized, self.num_threads = source, pieces, quantized, num_threads
        self.kinds = frozenset(native().kinds())

    def dtype(self, name: str) -> str:
        return self.source.info(self.pieces[name].source).dtype

    def vector(self, name: str) -> NDArray[np.float32]:
        piece = self.pieces[name]
        info = self.source.info(piece.source)
        values = piece.take(to_float32(self.source.raw(piece.source), info.dtype, info.shape))
        return np.ascontiguousarray(values, np.float32)

    def table(self, name: str) -> tuple[str, NDArray[np.uint8]]:
        """Type and bytes of rows that are read one at a time: the file's own, where they lie in order."""
        piece = self.pieces[name]
        info = self.source.info(piece.source)
        if piece.is_plain and info.dtype in self.kinds:
            return info.dtype, self.source.raw(piece.source)
        values = piece.take(to_float32(self.source.raw(piece.source), info.dtype, info.shape))
        return "F32", np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8)

    def matrix(self, name: str, shape: tuple[int, ...]) -> Any:
        piece = self.pieces[name]
        info = self.source.info(piece.source)
        if info.dtype not in self.kinds:
            raise UnsupportedError(
                f"tensor {piece.source}",
                f"the engine has no kernels for {info.dtype}",
                found=f"it has {', '.join(sorted(self.kinds))}",
                remedy="Load the model with backend='torch', or convert the file.",
            )
        rows, columns = shape
        raw = self.source.raw(piece.source)
        order = _row_order(piece, info.shape)
        dtype, plain = info.dtype, _PLAIN.get(info.dtype)
        if plain is not None and (piece.transposed or piece.added):
            if piece.added:
                values = to_float32(raw, info.dtype, info.shape)
                dtype = "F32"
            else:
                values = raw.view(plain).reshape(info.shape)
            raw = np.ascontiguousarray(piece.take(values)).reshape(-1).view(np.uint8)
            order = None
        elif piece.transposed or piece.added:
            raise UnsupportedError(f"tensor {piece.source}", f"{info.dtype} blocks cannot be transposed or shifted")
        if self.quantized is not None and plain is not None and columns % 32 == 0:
            whole = to_float32(raw, dtype, (raw.size // (columns * _PLAIN[dtype].itemsize), columns))
            raw = np.empty(whole.shape[0] * columns // 32 * (34 if self.quantized == "Q8_0" else 18), np.uint8)
            native().encode_rows(self.quantized, whole, raw, self.num_threads)
            dtype = self.quantized
        return native().pack(dtype, raw, rows, columns, order, self.num_threads)


def _row_order(piece: Piece, shape: tuple[int, ...]) -> NDArray[np.int64] | None:
    if piece.rows is None or piece.transposed:
        return None
    if isinstance(piece.rows, slice):
        return np.arange(*piece.rows.indices(shape[0]), dtype=np.int64)
    return np.ascontiguousarray(piece.rows, np.int64)
