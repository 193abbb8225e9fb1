"""Progress bars: rows, rows a second and time left; silent where the output is no terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

_state = {"is_shown": True}


def enable_progress_bars() -> None:
    """Bars are shown on terminals. This is so at the start."""
    _state["is_shown"] = True


def disable_progress_bars() -> None:
    """No bars."""
    _state["is_shown"] = False


@contextlib.contextmanager
def bar(num_rows: int | None, desc: str, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A bar over `num_rows` rows; the function it gives is told of rows that are done."""
    if not _state["is_shown"] or not sys.stderr.isatty():
        yield lambda rows: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=num_rows, desc=desc, initial=done, unit=" rows", unit_scale=True) as shown:

        def on_rows(rows: int) -> None:
            shown.update(rows)

        yield on_rows
