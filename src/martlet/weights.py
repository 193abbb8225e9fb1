"""Checkpoint tensor names -> our names: a table of rules that work both ways, and the strict check of names and shapes.

A `Piece` says where one of our tensors lies in a checkpoint, an `Assembly` what a checkpoint tensor is made of. `take`
and `build` work on anything that indexes like numpy, torch tensors included. Only `check_tied` reads data.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from martlet.arch import EMBEDDING, HEAD, Arch, Parts, tensors
from martlet.errors import WeightsError
from martlet.formats.tensors import TensorSource, to_float32

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Piece:
    """One of our tensors as it lies in a checkpoint: a whole tensor, or rows of a fused one."""

    source: str
    rows: slice | Rows | None = None  # after the transposition; None: all
    transposed: bool = False
    added: float = 0.0  # what has to be added to every value

    @property
    def is_plain(self) -> bool:
        """The checkpoint's bytes are ours as they are."""
        return self.rows is None and not self.transposed and not self.added

    @property
    def num_rows(self) -> int:
        """Rows taken of a fused tensor; 0 for a whole one."""
        if self.rows is None:
            return 0
        return self.rows.stop - self.rows.start if isinstance(self.rows, slice) else len(self.rows)

    def take(self, tensor: Any) -> Any:
        """Our tensor out of the checkpoint's: a view where the rows allow it."""
        if self.transposed and tensor.ndim == 2:
            tensor = tensor.T
        if self.rows is not None:
            tensor = tensor[self.rows]
        return tensor + self.added if self.added else tensor

    def shape(self, source: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of `take` for a checkpoint tensor of shape `source`."""
        if self.transposed and len(source) == 2:
            source = source[::-1]
        if self.rows is None or not source:
            return source
        return (self.num_rows, *source[1:])


@dataclass(frozen=True, slots=True)
class Assembly:
    """One checkpoint tensor out of ours: parts end to end, rows put in the checkpoint's order."""

    parts: tuple[str, ...]
    order: Rows | None = None  # row r of the checkpoint is row order[r] of the joined parts
    transposed: bool = False
    added: float = 0.0

    def build(self, get: Callable[[str], Any], join: Callable[[Sequence[Any]], Any]) -> Any:
        """The checkpoint's tensor; `get` gives ours by name, `join` is the library's concatenation of rows."""
        tensor = get(self.parts[0]) if len(self.parts) == 1 else join([get(part) for part in self.parts])
        if self.order is not None:
            tensor = tensor[self.order]
        if self.transposed and tensor.ndim == 2:
            tensor = tensor.T
        return tensor + self.added if self.added else tensor


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a family's table. Names are literal parts of tensor names; a leading ^ ties one to the start."""

    theirs: str
    ours: tuple[str, ...] = ()
    split: Callable[[Arch], tuple[Rows, ...]] | None = None  # rows of the fused tensor that make each part
    transposed: bool = False
    added: float = 0.0
    dropped: bool = False

    def matches(self, name: str) -> bool:
        return _contains(name, self.theirs)


def rename(theirs: str, ours: str) -> Rule:
    """Their name part becomes ours."""
    return Rule(theirs, (ours,))


def drop(theirs: str) -> Rule:
    """A tensor that carries nothing: a buffer that is computed, a table that is not used."""
    return Rule(theirs, dropped=True)


def transpose(theirs: str) -> Rule:
    """A matrix stored (columns in, rows out)."""
    return Rule(theirs, (theirs,), transposed=True)


def shift(theirs: str, by: float) -> Rule:
    """A tensor stored less `by`."""
    return Rule(theirs, (theirs,), added=by)


def reorder(theirs: str, rows: Callable[[Arch], Rows]) -> Rule:
    """A tensor whose rows lie in another order: row r of ours is row `rows(arch)[r]` of theirs."""
    return Rule(theirs, (theirs,), split=lambda arch: (rows(arch),))


def split(theirs: str, ours: Sequence[str], rows: Callable[[Arch], tuple[Rows, ...]]) -> Rule:
    """A fused tensor: `rows(arch)` are the rows of each part."""
    return Rule(theirs, tuple(ours), split=rows)


def rows_in_turn(*sizes: int) -> tuple[Rows, ...]:
    """Parts of these many rows, one after the other."""
    ends = np.cumsum(sizes)
    return tuple(np.arange(end - size, end) for end, size in zip(ends, sizes, strict=True))


def rows_qkv(arch: Arch) -> tuple[Rows, ...]:
    """q, then k, then v."""
    return rows_in_turn(arch.query_size, arch.key_value_size, arch.key_value_size)


def rows_qkv_by_head(arch: Arch) -> tuple[Rows, ...]:
    """q, k and v of one head, then of the next (GPT-NeoX)."""
    by_head = np.arange(3 * arch.query_size).reshape(arch.num_attention_heads, 3, arch.head_dim)
    return tuple(by_head[:, part].reshape(-1) for part in range(3))


def rows_gate_up(arch: Arch) -> tuple[Rows, ...]:
    """gate, then up."""
    return rows_in_turn(arch.intermediate_size, arch.intermediate_size)


def rows_pairwise(num_heads: int, head_dim: int) -> Rows:
    """Rotate-half order out of llama.cpp's, which keeps the two halves of a rotated pair side by side."""
    pairs = np.arange(num_heads * head_dim).reshape(num_heads, head_dim // 2, 2)
    return pairs.swapaxes(1, 2).reshape(-1)


def locate(names: Iterable[str], rules: Sequence[Rule], arch: Arch) -> dict[str, Piece]:
    """Where each of our tensors lies, for the tensor names of a checkpoint. Dropped ones are left out."""
    found: dict[str, Piece] = {}
    for source in names:
        for name, piece in _follow(source, rules, arch):
            if name in found:
                raise WeightsError(
                    "checkpoint",
                    f"two tensors stand for {name}: {found[name].source} and {source}",
                    remedy="Were two checkpoints written into one folder?",
                )
            found[name] = piece
    if arch.tied and HEAD in found and EMBEDDING not in found:
        found[EMBEDDING] = found.pop(HEAD)  # of two names of one tensor, some writers keep the head's
    return found


def assemble(names: Iterable[str], rules: Sequence[Rule], arch: Arch) -> dict[str, Assembly]:
    """What each checkpoint tensor is made of, for the names of our tensors. `locate` and this undo each other."""
    made = {name: Assembly((name,)) for name in names}
    for rule in reversed(rules):
        if rule.dropped:
            continue
        if len(rule.ours) > 1:
            made = _join(made, rule, arch)
            continue
        (ours,) = rule.ours
        renamed: dict[str, Assembly] = {}
        for name, assembly in made.items():
            if not _contains(name, ours):
                renamed[name] = assembly
                continue
            if rule.split:
                (rows,) = rule.split(arch)
                assembly = replace(assembly, order=np.argsort(rows))
            assembly = replace(
                assembly,
                transposed=assembly.transposed or rule.transposed,
                added=assembly.added - rule.added,
            )
            renamed[_swap(name, ours, rule.theirs)] = assembly
        made = renamed
    return made


def check(
    pieces: Mapping[str, Piece],
    shapes: Mapping[str, tuple[int, ...]],
    arch: Arch,
    parts: Parts,
    *,
    new: Collection[str] = (),
    heads: Collection[str] = (),
) -> None:
    """Raises `WeightsError` unless the pieces are exactly the tensors of an `arch` with these parts, in name and shape.

    `shapes` are the checkpoint's. Tensors in `new` may be missing. Those of parts the model does not have may be there:
    the pooler, the language-model head, and names that start as one of `heads`; for a causal model a tied head alone.
    """
    wanted = tensors(arch, parts)
    starts: tuple[str, ...] = () if arch.causal and parts.lm_head else ("lm_transform.", "head.", *heads)
    starts += ("model.pooler.",) if arch.pooler else ()
    missing = [name for name in wanted if name not in pieces and name not in new]
    surplus = [
        name
        for name in pieces
        if name not in wanted and name not in (HEAD, "lm_head.bias") and not name.startswith(starts)
    ]
    if parts.lm_head and not arch.tied and HEAD in missing and EMBEDDING in pieces and len(missing) == 1:
        raise WeightsError(
            "checkpoint",
            "config.json says tie_word_embeddings is false, so lm_head.weight must be there",
            found="no lm_head.weight",
            remedy="If the head is the embedding table, pass tie_word_embeddings=True.",
        )
    if not arch.head_bias and "lm_head.bias" in pieces:
        surplus.append("lm_head.bias")
    if missing or surplus:
        raise WeightsError(
            "checkpoint", _differences(wanted, missing, surplus, pieces), remedy=_advice(missing, surplus)
        )
    taken: dict[str, int] = {}  # rows of each fused tensor
    for piece in pieces.values():
        taken[piece.source] = taken.get(piece.source, 0) + piece.num_rows
    for name, piece in pieces.items():
        if name not in wanted:
            continue
        source = shapes[piece.source]
        if not _rows_fit(piece, source, taken[piece.source]) or piece.shape(source) != wanted[name]:
            raise WeightsError(
                f"tensor {piece.source}",
                f"config.json asks for {name} of shape {list(wanted[name])}"
                + (f", in a tensor of {taken[piece.source]} rows" if piece.rows is not None else ""),
                found=f"a tensor of shape {list(source)}",
                remedy="Is config.json from the same checkpoint?",
            )


def check_tied(source: TensorSource, pieces: Mapping[str, Piece], arch: Arch) -> None:
    """Raises `WeightsError` where config.json ties the head to the embeddings and the checkpoint has another head."""
    if not arch.tied or HEAD not in pieces or EMBEDDING not in pieces:
        return
    head, table = (source.info(pieces[name].source) for name in (HEAD, EMBEDDING))
    raws = source.raw(head.name), source.raw(table.name)
    if head.dtype == table.dtype and head.shape == table.shape and _same_bytes(*raws):
        return
    values = [to_float32(raw, info.dtype, info.shape) for raw, info in zip(raws, (head, table), strict=True)]
    if not np.array_equal(values[0], values[1]):
        raise WeightsError(
            f"tensor {head.name}",
            f"config.json says tie_word_embeddings is true, so it must equal {table.name}",
            found="other values",
            remedy="If the head is a tensor of its own, pass tie_word_embeddings=False.",
        )


def _same_bytes(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """Compared 16 MB at a time, as numpy makes an array of what it finds."""
    step = 2**24
    return all(np.array_equal(one[i : i + step], other[i : i + step]) for i in range(0, len(one), step))


def _rows_fit(piece: Piece, source: tuple[int, ...], taken: int) -> bool:
    """Whether the pieces of a fused tensor, `taken` rows together, are all of it."""
    if piece.rows is None:
        return True
    return taken == (source[-1] if piece.transposed and len(source) == 2 else source[0] if source else 0)


def _follow(source: str, rules: Sequence[Rule], arch: Arch) -> list[tuple[str, Piece]]:
    pending = [(source, Piece(source))]
    for rule in rules:
        following: list[tuple[str, Piece]] = []
        for name, piece in pending:
            if not rule.matches(name):
                following.append((name, piece))
                continue
            if rule.dropped:
                continue
            piece = replace(piece, transposed=piece.transposed or rule.transposed, added=piece.added + rule.added)
            if not rule.split:
                following.append((_swap(name, rule.theirs, rule.ours[0]), piece))
                continue
            for ours, rows in zip(rule.ours, rule.split(arch), strict=True):
                kept = _rows_of(piece, rows)
                following.append((_swap(name, rule.theirs, ours), replace(piece, rows=_as_slice(kept))))
        pending = following
    return pending


def _rows_of(piece: Piece, rows: Rows) -> Rows:
    """`rows` of the piece, as rows of its source."""
    if piece.rows is None:
        return rows
    return rows + piece.rows.start if isinstance(piece.rows, slice) else piece.rows[rows]


def _join(made: dict[str, Assembly], rule: Rule, arch: Arch) -> dict[str, Assembly]:
    joined: dict[str, Assembly] = {}
    assert rule.split is not None
    rows = rule.split(arch)
    for name, assembly in made.items():
        which = [index for index, ours in enumerate(rule.ours) if _contains(name, ours)]
        if not which:
            joined[name] = assembly
            continue
        fused = _swap(name, rule.ours[which[0]], rule.theirs)
        if fused in joined:
            continue
        parts = [made[_swap(fused, rule.theirs, ours)] for ours in rule.ours]
        assert all(part.order is None and not part.transposed and not part.added for part in parts), fused
        order = np.argsort(np.concatenate(rows))
        is_sorted = bool((order == np.arange(len(order))).all())
        joined[fused] = Assembly(tuple(part.parts[0] for part in parts), None if is_sorted else order)
    return joined


def _contains(name: str, part: str) -> bool:
    return name.startswith(part[1:]) if part.startswith("^") else part in name


def _swap(name: str, part: str, other: str) -> str:
    other = other.removeprefix("^")
    return other + name.removeprefix(part[1:]) if part.startswith("^") else name.replace(part, other, 1)


def _as_slice(rows: Rows) -> slice | Rows:
    start = int(rows[0])
    if (rows == np.arange(start, start + len(rows))).all():
        return slice(start, start + len(rows))
    return rows


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6])
    return shown + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _differences(
    wanted: Mapping[str, tuple[int, ...]], missing: Sequence[str], surplus: Sequence[str], pieces: Mapping[str, Piece]
) -> str:
    said = []
    if missing:
        said.append(f"{len(missing)} of {len(wanted)} tensors missing: {_few(missing)}")
    if surplus:
        said.append(
            f"{len(surplus)} tensors that this architecture does not use: {_few([pieces[n].source for n in surplus])}"
        )
    return "; ".join(said)


def _advice(missing: Sequence[str], surplus: Sequence[str]) -> str:
    if missing and surplus:
        near = difflib.get_close_matches(missing[0], surplus, 1)
        return f"Did a name change ({near[0]})?" if near else "Is config.json from the same checkpoint?"
    if missing:
        return "Is the download complete, and config.json from the same checkpoint?"
    return "Is config.json from the same checkpoint?"


def layer_of(name: str) -> int | None:
    """The layer a tensor belongs to; None for those outside the blocks."""
    found = re.match(r"model\.layers\.(\d+)\.", name)
    return int(found[1]) if found else None
