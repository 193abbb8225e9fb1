"""What a model would say with some of its matrices in other types: packed so in the engine, tried, put back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from martlet.arch import EMBEDDING, HEAD, Arch, tensors
from martlet.engine.encode import encode
from martlet.engine.extension import native
from martlet.engine.model import EngineModel
from martlet.formats.tensors import TensorSource, to_float32
from martlet.weights import Piece

ROWS = 256  # of a matrix, spread over it, that tell how far a type is from the numbers


class Trial:
    """A model whose matrices can be swapped. `names` are ours; the tied head goes with the embedding table."""

    def __init__(
        self, model: EngineModel, source: TensorSource, pieces: Mapping[str, Piece], ids: Sequence[int]
    ) -> None:
        self.model, self.source, self.pieces, self.ids = model, source, pieces, list(ids)
        self.shapes = tensors(model.arch)
        self.kinds = frozenset(native().kinds())

    @property
    def arch(self) -> Arch:
        return self.model.arch

    def logits(self) -> NDArray[np.float32]:
        """`(tokens, vocabulary)` of the text as the matrices are now."""
        session = self.model.open_session()
        try:
            found: NDArray[np.float32] = session.step([(session.add(), self.ids)], logits="all").logits
            return found
        finally:
            session.close()

    def values(self, name: str) -> NDArray[np.float32]:
        """One tensor's numbers, in our layout."""
        piece = self.pieces[name]
        info = self.source.info(piece.source)
        values = piece.take(to_float32(self.source.raw(piece.source), info.dtype, info.shape))
        return np.ascontiguousarray(values, np.float32)

    def set(self, name: str, kind: str) -> None:
        """Puts one matrix into `kind`."""
        self._put(name, kind, encode(self.values(name), kind, self.model.num_threads))

    def restore(self, name: str) -> None:
        """Puts one matrix back as it is stored, or in float32 where the file lays it out in another way."""
        piece = self.pieces[name]
        info = self.source.info(piece.source)
        if piece.is_plain and info.dtype in self.kinds:
            self._put(name, info.dtype, self.source.raw(piece.source))
        elif info.dtype in self.kinds and not piece.transposed and not piece.added:
            rows = np.arange(info.shape[0])[piece.rows]
            raw = self.source.raw(piece.source).reshape(info.shape[0], -1)[rows]
            self._put(name, info.dtype, np.ascontiguousarray(raw).reshape(-1))
        else:
            self._put(name, "F32", self.values(name).reshape(-1).view(np.uint8))

    def _put(self, name: str, kind: str, raw: NDArray[np.uint8]) -> None:
        self.model.end_rows()  # an engine's weights stay as they are
        rows, columns = self.shapes[name]
        if name == EMBEDDING:
            self.model.handle.set_table(name, kind, raw, rows, columns)
            if not self.arch.tied:
                return
            name = HEAD
        packed: Any = native().pack(kind, raw, rows, columns, None, self.model.num_threads)
        self.model.handle.set_matrix(name, packed)

    def squared_error(self, name: str, kind: str) -> float:
        """Mean squared error of some rows in `kind`."""
        values = self.values(name)
        some = values[:: max(1, len(values) // ROWS)]
        back = to_float32(encode(some, kind, self.model.num_threads), kind, some.shape)
        return float(np.square(back - some, dtype=np.float64).mean())
