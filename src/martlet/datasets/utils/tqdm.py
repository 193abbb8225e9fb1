"""tqdm's bar under Hugging Face's name: none where progress bars are turned off."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm as _tqdm

from martlet.datasets.progress import are_progress_bars_disabled


class tqdm(_tqdm):  # type: ignore[misc]
    """A bar that `disable_progress_bars()` turns off."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if are_progress_bars_disabled():
            kwargs["disable"] = True
        super().__init__(*args, **kwargs)
