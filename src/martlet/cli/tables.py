"""Numbers and tables for people."""

from __future__ import annotations

from collections.abc import Sequence

UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")  # of 1000


def bytes_text(count: float) -> str:
    """A number of bytes in the unit that leaves 1 to 4 digits before the point: "98.1 MB"."""
    value, unit = float(count), 0
    while value >= 999.95 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {UNITS[unit]}" if unit == 0 else f"{value:.1f} {UNITS[unit]}"


def count_text(count: int) -> str:
    """A count with its thousands apart, and from a million on its size in words: "134,515,008 (135M)"."""
    for size, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        if count >= size:
            short = f"{count / size:.3g}" if count < 1000 * size else f"{count / size:.0f}"
            return f"{count:,} ({short}{letter})"
    return f"{count:,}"


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), indent: str = "  ") -> str:
    """Rows as lines with their columns aligned, those of `right` at their right edge. The last is not padded."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)
