"""Progress bars: rows, rows a second and time left; silent where the output is no terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

_state = {"is_shown": True}


def enable_progress_bars() -> None:
    """Bars are shown on terminals. This is so at the start, unless HF_DATASETS_DISABLE_PROGRESS_BARS is 1."""
    _state["is_shown"] = True


def disable_progress_bars() -> None:
    """No bars."""
    _state["is_shown"] = False


def are_progress_bars_disabled() -> bool:
    """Whether there are no bars; the environment's HF_DATASETS_DISABLE_PROGRESS_BARS, where it is set, decides."""
    asked = os.environ.get("HF_DATASETS_DISABLE_PROGRESS_BARS", "").upper()
    return asked in ("1", "ON", "YES", "TRUE") if asked else not _state["is_shown"]


def is_progress_bar_enabled() -> bool:
    """Whether there are bars."""
    return not are_progress_bars_disabled()


enable_progress_bar, disable_progress_bar = enable_progress_bars, disable_progress_bars


@contextlib.contextmanager
def bar(num_rows: int | None, desc: str, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A bar over `num_rows` rows; the function it gives is told of rows that are done."""
    if are_progress_bars_disabled() or not sys.stderr.isatty():
        yield lambda rows: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=num_rows, desc=desc, initial=done, unit=" rows", unit_scale=True) as shown:

        def on_rows(rows: int) -> None:
            shown.update(rows)

        yield on_rows
