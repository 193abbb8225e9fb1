"""The rows of one engine, whoever steps them, and ended ones that are kept for others that begin alike."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from martlet.engine.extension import native
from martlet.errors import ArgumentError
from martlet.rope import turns_over

if TYPE_CHECKING:
    from martlet.engine.model import EngineModel
    from martlet.engine.session import EngineSession

PAGE = 16  # positions that lie together
KV_DTYPES = {"float16": 2, "bfloat16": 2, "float32": 4}  # what keys and values may be kept in -> bytes of a number
KEPT_BYTES = 512 * 2**20  # of ended rows; also at most the limit. They are the first to go when memory is needed
KEPT_ROWS = 64


class Rows:
    """Keys and values of a model in one process: pages, a limit for them, and what is kept of ended rows.

    Sessions of several threads share it. A kept row that a new one begins with is not read again; the new row's
    numbers are the same to the bit.
    """

    def __init__(self, model: EngineModel, kv_cache_bytes: int | None, kv_cache_dtype: str) -> None:
        page_bytes = model.arch.num_layers * model.arch.key_value_size * 2 * PAGE * KV_DTYPES[kv_cache_dtype]
        max_pages = 0 if kv_cache_bytes is None else count_pages(kv_cache_bytes, page_bytes)
        self.engine = native().Engine(model.handle, model.isa, model.num_threads, max_pages, kv_cache_dtype)
        self.ropes, self.max_pages = model.ropes, max_pages
        self.sessions: set[EngineSession] = set()
        self._max_kept = min(KEPT_BYTES // page_bytes, max_pages or KEPT_BYTES)
        self._kept: dict[int, NDArray[np.int32]] = {}  # the engine's number -> its ids; the longest unused first
        self._lock = threading.RLock()

    def begin(self, ids: NDArray[np.int64] | None) -> tuple[int, int]:
        """A new row, and how many of `ids` it already holds: never all of them."""
        if ids is None or len(ids) <= PAGE:
            return self.engine.add(), 0
        wanted = np.asarray(ids[:-1], np.int32)
        with self._lock:
            common = {number: num_common(kept, wanted) for number, kept in self._kept.items()}
            best = max(common, key=common.__getitem__, default=-1)
            if best < 0 or common[best] < PAGE:
                return self.engine.add(), 0
            length = common[best]
            if any(turns_over(rope, length, len(self._kept[best])) for rope in self.ropes):
                return self.engine.add(), 0  # its keys were turned for the longer row
            self._kept[best] = self._kept.pop(best)
            row = self.engine.fork(best)
            self.engine.truncate(row, length)
            return row, length

    def end(self, row: int, ids: list[int], *, keep: bool) -> None:
        """Gives up a row; with `keep`, not before memory is needed or others that ended later fill what is kept."""
        held = self.engine.length(row)
        length = min(held, self._max_kept * PAGE)
        if not keep or not length or any(turns_over(rope, length, held) for rope in self.ropes):
            self.engine.release(row)
            return
        self.engine.truncate(row, length)
        new = np.array(ids[:length], np.int32)
        with self._lock:
            for number, kept in list(self._kept.items()):
                common = num_common(kept, new)
                if common == len(new):  # the other says all that this one does
                    self.engine.release(row)
                    self._kept[number] = self._kept.pop(number)
                    return
                if common == len(kept):
                    self._drop(number)
            self._kept[row] = new
            while (
                sum(-(-len(ids) // PAGE) for ids in self._kept.values()) > self._max_kept or len(self._kept) > KEPT_ROWS
            ):
                self._drop(next(iter(self._kept)))

    def make_room(self, needed: Callable[[], int]) -> bool:
        """Whether `needed()` pages are free, or become free when kept rows are dropped; these then are."""
        with self._lock:
            while needed() > self.engine.pages_free:
                if not self._kept:
                    return False
                self._drop(next(iter(self._kept)))
            return True

    def wait(self, session: EngineSession, pages: int) -> bool:
        """Waits a moment for other sessions to give up memory. False where that is in vain: `pages` are more than all
        there are, or this session holds some itself and the others wait for them."""
        if not self.max_pages or pages > self.max_pages:
            return False
        with self._lock:
            others = [other for other in self.sessions if other is not session and other.num_rows]
            if session.num_rows and all(other.is_waiting for other in others):
                return False
            session.is_waiting = True
        time.sleep(0.002)
        session.is_waiting = False
        return True

    def forget(self) -> None:
        """Drops what is kept of ended rows."""
        with self._lock:
            for number in list(self._kept):
                self._drop(number)
            self.engine.trim()

    def _drop(self, number: int) -> None:
        del self._kept[number]
        self.engine.release(number)


def find_kv_dtype(kv_cache_dtype: Any, kinds: Mapping[str, str]) -> str:
    """What keys and values are kept in: `kv_cache_dtype`, a name or a torch.dtype; for None or "auto", by the `kinds`
    of the packed matrices.

    float32 where every matrix of the layers is: nothing else is rounded there. Otherwise float16, which is nearer than
    bfloat16 for numbers of 2^-16 to 65,504. ArgumentError for another word.
    """
    word = "auto" if kv_cache_dtype is None else str(kv_cache_dtype).removeprefix("torch.")
    if word == "auto":
        stored = {kind for name, kind in kinds.items() if name.startswith("model.layers.")}
        return "float32" if stored == {"F32"} else "float16"
    if word not in KV_DTYPES:
        raise ArgumentError("kv_cache_dtype", f"must be 'auto', {', '.join(map(repr, KV_DTYPES))}", found=repr(word))
    return word


def count_pages(kv_cache_bytes: Any, page_bytes: int) -> int:
    """How many pages the bytes allow. ArgumentError if not even one."""
    if isinstance(kv_cache_bytes, bool) or not isinstance(kv_cache_bytes, int) or kv_cache_bytes < page_bytes:
        raise ArgumentError(
            "kv_cache_bytes",
            f"must be a number of bytes, for this model at least {page_bytes}: the keys and values of {PAGE} tokens",
            found=repr(kv_cache_bytes),
        )
    return kv_cache_bytes // page_bytes


def num_common(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """How many ids two rows begin with alike."""
    shorter = min(len(one), len(other))
    differing = one[:shorter] != other[:shorter]
    return int(differing.argmax()) if differing.any() else shorter
