"""A checkpoint's weights in the engine: packed as they are stored, embeddings read from the file row by row."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from martlet.arch import EMBEDDING, HEAD, Arch, Rope, tensors
from martlet.engine.extension import count_threads, find_isa, native
from martlet.engine.rows import Rows, find_kv_dtype
from martlet.engine.session import EngineSession
from martlet.errors import ArgumentError, FormatError, MartletError, UnsupportedError, WeightsError
from martlet.formats.tensors import TensorInfo, TensorSource, became_shorter, to_float32
from martlet.weights import Piece

OPTIONS = ("num_threads", "isa", "kv_cache_bytes", "kv_cache_dtype")  # of an engine, whatever its weights come from
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
    kv_cache_dtype: str = "float16"
    _rows: dict[int, Rows] = field(default_factory=dict, repr=False)  # by process: threads do not survive a fork

    def open_session(self, kv_cache_bytes: int | None = None, kv_cache_dtype: Any = None) -> EngineSession:
        """Rows to step through, in the pages of this model; with `kv_cache_bytes`, or with a `kv_cache_dtype` that is
        not the model's, in pages of its own."""
        dtype = self.kv_cache_dtype if kv_cache_dtype is None else find_kv_dtype(kv_cache_dtype, self.kinds)
        if kv_cache_bytes is None and dtype == self.kv_cache_dtype:
            return EngineSession(self, self.rows)
        return EngineSession(self, Rows(self, self.kv_cache_bytes if kv_cache_bytes is None else kv_cache_bytes, dtype))

    @property
    def rows(self) -> Rows:
        """What the sessions of this process share."""
        process = os.getpid()
        if process not in self._rows:
            self._rows.setdefault(process, Rows(self, self.kv_cache_bytes, self.kv_cache_dtype))
        return self._rows[process]

    def end_rows(self) -> None:
        """Ends the engine of this process, so that weights can be set. Close its sessions first; a new one begins."""
        self._rows.pop(os.getpid(), None)

    def __reduce__(self) -> NoReturn:
        """UnsupportedError: packed weights are of this process and processor."""
        remedy = "Load the model again where it is wanted."
        raise UnsupportedError("native engine", "a model on it can be neither pickled nor copied deeply", remedy=remedy)

    @property
    def packed_bytes(self) -> int:
        """Memory of the packed matrices."""
        size: int = self.handle.packed_bytes
        return size


class Packing:
    """A model whose matrices are being packed by threads of the engine, without the interpreter; `finish` gives it.

    Whoever lets go of it unfinished ends the packing.
    """

    def __init__(self, model: EngineModel, packer: _Packer) -> None:
        self._model, self._packer = model, packer
        others = max(1, packer.num_threads - 1)  # whoever finishes it is one more
        packer.filling.begin(others)

    def finish(self) -> EngineModel:
        """Helps until all is packed. WeightsError, FormatError as `build_engine_model` says; Ctrl-C is heard."""
        self._packer.finish()
        self._model.rows  # noqa: B018  # a limit that cannot be kept is refused here
        return self._model


def build_engine_model(arch: Arch, source: TensorSource, pieces: Mapping[str, Piece], **options: Any) -> EngineModel:
    """Packs every weight. `quantize` "int8" or "int4" packs float matrices in blocks of 32 numbers to a scale.

    Matrices stay in the type they are stored in. UnsupportedError names a tensor whose type has no kernels,
    WeightsError one with NaN or infinity. Files are read, not mapped: their bytes are in memory once, packed, and a
    file that becomes shorter is a FormatError. Options are those of `begin_packing`.
    """
    return begin_packing(arch, source, pieces, **options).finish()


def begin_packing(
    arch: Arch,
    source: TensorSource,
    pieces: Mapping[str, Piece],
    *,
    quantize: str | None = None,
    isa: str | None = None,
    num_threads: int | None = None,
    kv_cache_bytes: int | None = None,
    kv_cache_dtype: Any = None,
) -> Packing:
    """The same, which goes on while the caller does other things.

    `kv_cache_bytes`: most memory for keys and values of all sessions; `kv_cache_dtype`: as `find_kv_dtype` says.
    """
    if quantize is not None and quantize not in QUANTIZED:
        raise ArgumentError("quantize", f"must be one of {', '.join(QUANTIZED)}", found=repr(quantize))
    find_kv_dtype(kv_cache_dtype, {})  # a wrong word is refused before anything is read
    _refuse(arch)
    packer = _Packer(source, pieces, QUANTIZED.get(quantize or ""), count_threads(num_threads))
    ropes = tuple(dict.fromkeys(layer.rope for layer in arch.layers if layer.rope))
    handle = native().Model(_fields(arch, ropes, packer))
    kinds: dict[str, str] = {}
    try:
        for name, shape in tensors(arch).items():
            if name in (EMBEDDING, POSITIONS):
                kinds[name] = packer.set_table(handle, name, shape)
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
        if isinstance(error, MartletError):
            raise
        raise WeightsError("engine", str(error)) from error
    dtype = find_kv_dtype(kv_cache_dtype, kinds)
    model = EngineModel(arch, ropes, handle, find_isa(isa), packer.num_threads, kinds, kv_cache_bytes, dtype)
    return Packing(model, packer)


@dataclass(frozen=True, slots=True)
class EngineSizes:
    """Bytes of a checkpoint's weights in the engine: matrices, packed, and tables, which are never copied."""

    packed: int
    tables: int


def find_sizes(arch: Arch, source: TensorSource, pieces: Mapping[str, Piece]) -> EngineSizes:
    """What `build_engine_model` would need, from the headers alone. UnsupportedError as it would say."""
    _refuse(arch)
    packer = _Packer(source, pieces, None, 1)
    shapes, packed, tables = tensors(arch), 0, 0
    for name, shape in shapes.items():
        if name in (EMBEDDING, POSITIONS):
            tables += source.info(pieces[name].source).num_bytes
        elif len(shape) > 1:
            packed += packer.packed_bytes(name, shape)
    if arch.tied:
        packed += packer.packed_bytes(EMBEDDING, shapes[EMBEDDING])
    return EngineSizes(packed, tables)


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's OPTIONS that say something. ArgumentError for a `kv_cache_dtype` that there is not."""
    find_kv_dtype(options.get("kv_cache_dtype"), {})
    return {name: value for name, value in options.items() if value is not None}


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
    """Reads tensors of one checkpoint in the forms the engine takes; matrices are filled once `filling` has begun."""

    def __init__(
        self, source: TensorSource, pieces: Mapping[str, Piece], quantized: str | None, num_threads: int
    ) -> None:
        self.source, self.pieces, self.quantized, self.num_threads = source, pieces, quantized, num_threads
        self.kinds, self.arena = frozenset(native().kinds()), native().Arena()
        self.filling, self.filled = native().Filling(), list[str]()  # and whose matrix each of its jobs is

    def dtype(self, name: str) -> str:
        return self.source.info(self.pieces[name].source).dtype

    def vector(self, name: str) -> NDArray[np.float32]:
        piece = self.pieces[name]
        info = self.source.info(piece.source)
        values = piece.take(to_float32(self._bytes(piece.source), info.dtype, info.shape))
        return np.ascontiguousarray(values, np.float32)

    def set_table(self, handle: Any, name: str, shape: tuple[int, ...]) -> str:
        """Rows that are read one at a time, from the file where they lie there in order; their type."""
        piece = self.pieces[name]
        info = self.source.info(piece.source)
        if piece.is_plain and info.dtype in self.kinds:
            if (place := self.source.place(piece.source)) is None:
                handle.set_table(name, info.dtype, self.source.raw(piece.source), *shape)
            else:
                handle.set_table_in_file(name, info.dtype, place[0].descriptor, place[1], *shape)
            return info.dtype
        values = piece.take(to_float32(self._bytes(piece.source), info.dtype, info.shape))
        handle.set_table(name, "F32", np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8), *shape)
        return "F32"

    def packed_bytes(self, name: str, shape: tuple[int, ...]) -> int:
        """What a matrix takes."""
        size: int = native().packed_bytes(self._kind(self._known(name).dtype, shape[1]), *shape)
        return size

    def matrix(self, name: str, shape: tuple[int, ...]) -> Any:
        """The matrix packed, or one that will be once `finish` was called."""
        piece, info = self.pieces[name], self._known(name)
        try:
            return (
                self._whole(piece, info, shape) if piece.transposed or piece.added else self._later(piece, info, shape)
            )
        except ValueError as error:
            if isinstance(error, MartletError):
                raise
            raise WeightsError(f"tensor {piece.source}", str(error)) from error

    def finish(self) -> None:
        failed = self.filling.finish(helps=self.num_threads > 1)
        if failed is None:
            return
        job, what, is_of_file = failed
        if not is_of_file:
            raise WeightsError(f"tensor {self.filled[job]}", what)
        place = self.source.place(self.filled[job])
        subject = f"{place[0].path if place else 'file'}, tensor {self.filled[job]!r}"
        raise FormatError(subject, "cannot be read", found=what) if what else became_shorter(subject)

    def _known(self, name: str) -> TensorInfo:
        """What is stored of a matrix; UnsupportedError for a type without kernels."""
        piece = self.pieces[name]
        info = self.source.info(piece.source)
        if info.dtype not in self.kinds:
            raise UnsupportedError(
                f"tensor {piece.source}",
                f"the engine has no kernels for {info.dtype}",
                found=f"it has {', '.join(sorted(self.kinds))}",
                remedy="Load the model with backend='torch', or convert the file.",
            )
        return info

    def _later(self, piece: Piece, info: TensorInfo, shape: tuple[int, ...]) -> Any:
        """A matrix whose rows are put into it by the filling, in another order or as parts of a fused tensor too."""
        kind = self._kind(info.dtype, shape[1])
        packed = native().make_packed(kind, *shape, self.arena)
        order = _row_order(piece, info.shape)
        if (place := self.source.place(piece.source)) is not None:
            self.filling.add_file(packed, info.dtype, place[0].descriptor, place[1], info.shape[0], order)
        else:
            held = self._bytes(piece.source) if self.source.paths else self.source.raw(piece.source)
            self.filling.add_memory(packed, info.dtype, held, order)
        self.filled.append(piece.source)
        return packed

    def _whole(self, piece: Piece, info: TensorInfo, shape: tuple[int, ...]) -> Any:
        """A transposed or a shifted matrix."""
        rows, columns = shape
        raw, dtype = self._bytes(piece.source), info.dtype
        plain = _PLAIN.get(dtype)
        if plain is None:
            raise UnsupportedError(f"tensor {piece.source}", f"{dtype} blocks cannot be transposed or shifted")
        if piece.added:
            values = to_float32(raw, dtype, info.shape)
            dtype = "F32"
        else:
            values = raw.view(plain).reshape(info.shape)
        raw = np.ascontiguousarray(piece.take(values)).reshape(-1).view(np.uint8)
        kind = self._kind(dtype, columns)
        return native().pack(kind, self._encode(raw, dtype, columns), rows, columns, None, self.num_threads, self.arena)

    def _bytes(self, source: str) -> NDArray[np.uint8]:
        out = np.empty(self.source.info(source).num_bytes, np.uint8)
        self.source.read(source, 0, out)
        return out

    def _kind(self, dtype: str, columns: int) -> str:
        return self.quantized if self.quantized and dtype in _PLAIN and columns % 32 == 0 else dtype

    def _encode(self, raw: NDArray[np.uint8], dtype: str, columns: int) -> NDArray[np.uint8]:
        """Rows of `dtype` in the kind they are packed in."""
        kind = self._kind(dtype, columns)
        if kind == dtype:
            return raw
        values = to_float32(raw, dtype, (raw.size // (columns * _PLAIN[dtype].itemsize), columns))
        out = np.empty(values.size // 32 * (34 if kind == "Q8_0" else 18), np.uint8)
        native().encode_rows(kind, values, out, self.num_threads)
        return out


def _row_order(piece: Piece, shape: tuple[int, ...]) -> NDArray[np.int64] | None:
    if piece.rows is None or piece.transposed:
        return None
    if isinstance(piece.rows, slice):
        return np.arange(*piece.rows.indices(shape[0]), dtype=np.int64)
    return np.ascontiguousarray(piece.rows, np.int64)
