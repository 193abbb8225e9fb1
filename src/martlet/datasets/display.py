"""How a dataset shows itself: a line a fact in a terminal, a table of the first rows in a notebook."""

from __future__ import annotations

import html
from typing import Any

SHOWN_ROWS, SHOWN_CHARS = 5, 80


def text_of(dataset: Any) -> str:
    """Columns and rows, as Hugging Face shows them."""
    return f"Dataset({{\n    features: {dataset.column_names},\n    num_rows: {dataset.num_rows}\n}})"


def html_of(dataset: Any) -> str:
    """The first rows as a table, each value cut to 80 characters, with the kinds under the names."""
    features, total = dataset.features, dataset.num_rows
    heads = "".join(
        f"<th>{html.escape(name)}<br><small>{html.escape(_cut(repr(kind)))}</small></th>"
        for name, kind in features.items()
    )
    plain = dataset._stored.rows
    columns = list(range(len(features)))
    lines = []
    for position in range(min(SHOWN_ROWS, total)):
        row = position if dataset._selection is None else dataset._selection.row(position)
        cells = "".join(f"<td>{html.escape(_cut(value))}</td>" for value in plain.one(row, columns))
        lines.append(f"<tr><th>{position}</th>{cells}</tr>")
    more = f"<p>{total:,} rows, {len(features)} columns</p>"
    return f"<table><thead><tr><th></th>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>{more}"


def _cut(value: Any) -> str:
    text = f"<{len(value):,} bytes>" if isinstance(value, bytes) else str(value)
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"
