"""Arguments read strictly: a wrong one is an ArgumentError that names the nearest right one. argparse does the rest."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from martlet.errors import ArgumentError


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are ours, one line each. `parse` refuses what it does not know."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Help, **options)

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """The arguments that `words` say; ArgumentError for a missing, wrong or unknown one."""
        arguments, unknown = self.parse_known_args(words)
        if unknown:
            flag = next((word for word in unknown if word.startswith("-") and word != "--"), None)
            if flag is None:
                raise ArgumentError(
                    self.prog, "takes fewer arguments", found=repr(unknown[-1]), remedy="Put a text in quotes."
                )
            known = [text for action in self._actions for text in action.option_strings]
            name = flag.split("=")[0]
            raise ArgumentError(self.prog, f"has no option {name}", remedy=nearest(name, known) or self._hint)
        return arguments

    def error(self, message: str) -> NoReturn:
        raise ArgumentError(self.prog, message.removeprefix("argument "), remedy=self._hint)

    @property
    def _hint(self) -> str:
        return f"See {self.prog} --help."


class _Help(argparse.RawDescriptionHelpFormatter):
    """Examples keep their lines; options stand beside what they do."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **{"max_help_position": 34, **options})


def nearest(name: str, known: Iterable[str]) -> str:
    """The remedy for a name that is not among the `known`: the nearest of them, or nothing if none is near."""
    near = difflib.get_close_matches(name, list(known), 1, 0.6)
    return f"Is {near[0]} meant?" if near else ""
