"""Cells of CSV as Arrow's types: the narrowest that all text of a column has, or the one that was asked for."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

TRUE, FALSE = pa.array(["True", "TRUE", "true"]), pa.array(["False", "FALSE", "false"])


@dataclass(frozen=True)
class Spelling:
    """How numbers and truths are written."""

    decimal: str = "."
    thousands: str | None = None
    true: tuple[str, ...] = ()
    false: tuple[str, ...] = ()

    def truths(self, common: pa.Array, more: tuple[str, ...]) -> pa.Array:
        """The usual spellings, and others."""
        return pa.concat_arrays([common, pa.array(more, pa.string())]) if more else common


def needs_text(known: pa.DataType, new: pa.DataType) -> bool:
    """Whether two blocks of one column agree on nothing but their text."""
    if pa.types.is_null(known) or pa.types.is_null(new) or known.equals(new):
        return False
    return not ({str(known), str(new)} == {"int64", "double"} or pa.types.is_string(known))


def narrowest(text: pa.Array, spelling: Spelling) -> pa.Array:
    if text.null_count == len(text):
        return pa.nulls(len(text))
    # Arrow words an error for every cell that is no number: a few cells are asked before all are
    few = text.slice(0, 256).drop_null()
    for kind in (pa.int64(), pa.uint64(), pa.float64()):
        if len(few) and number_of(few, kind, spelling) is None:
            continue
        number = number_of(text, kind, spelling)
        if number is not None:
            return number
    truth = pc.is_in(text, spelling.truths(TRUE, spelling.true))
    untruth = pc.is_in(text, spelling.truths(FALSE, spelling.false))
    if pc.all(pc.or_(pc.or_(truth, untruth), pc.is_null(text))).as_py():
        return pc.if_else(pc.is_valid(text), truth, None)
    return text


def number_of(text: pa.Array, kind: pa.DataType, spelling: Spelling) -> pa.Array | None:
    if spelling.thousands is not None:
        text = pc.replace_substring(text, spelling.thousands, "")
    if spelling.decimal != "." and pa.types.is_floating(kind):
        text = pc.replace_substring(text, spelling.decimal, ".")
    for spelled in (text, None):
        try:
            if spelled is None:
                if not pc.any(pc.match_substring_regex(text, r"^\s|\s$")).as_py():
                    return None
                spelled = pc.utf8_trim_whitespace(text)
            number = spelled.cast(kind)
        except pa.ArrowInvalid:
            continue
        # a number of more digits than a float holds is a name: an account, a hash
        if pa.types.is_floating(kind) and pc.any(pc.match_substring_regex(spelled, r"^[+-]?\d{18,}$")).as_py():
            return None
        return number
    return None


def typed_as(text: pa.Array, kind: pa.DataType, spelling: Spelling) -> pa.Array:
    """Text as the type that was asked for; text itself where the asker converts it (class names, JSON)."""
    if pa.types.is_string(kind):
        return text
    if pa.types.is_boolean(kind):
        truth = pc.is_in(text, spelling.truths(TRUE, (*spelling.true, "1")))
        untruth = pc.is_in(text, spelling.truths(FALSE, (*spelling.false, "0")))
        known = pc.or_(pc.or_(truth, untruth), pc.is_null(text))
        return pc.if_else(pc.is_valid(text), truth, None) if pc.all(known).as_py() else text
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        number = number_of(text, kind, spelling)
        if number is None and pa.types.is_integer(kind):
            number = number_of(text, pa.float64(), spelling)  # 3.0 is a whole number too
        return text if number is None else number
    if pa.types.is_large_string(kind) or pa.types.is_temporal(kind):
        return text.cast(kind)
    return text
