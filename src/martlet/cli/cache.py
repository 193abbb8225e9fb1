"""`martlet cache ls | gc | clear`: what martlet.datasets keeps on the disk. The work is datasets/cache.py's."""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Sequence
from typing import Any

from martlet.cli.tables import bytes_text, table

EXAMPLES = """\
examples:
  martlet cache ls
  martlet cache gc      what killed runs left, and what is beyond the limit
  martlet cache clear   everything that is not being made right now

MARTLET_DATASETS_CACHE is the folder, MARTLET_DATASETS_CACHE_BYTES the limit (20 GB).
A dataset that is open goes on reading what was removed.
"""
ACTIONS = ("ls", "gc", "clear")


def build(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.usage = "martlet cache ls|gc|clear [--json]"
    parser.epilog = EXAMPLES
    parser.add_argument("action", choices=ACTIONS, help="show, tidy up, or remove")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Does it, prints what there is or what was removed, and returns 0."""
    from martlet.datasets import cache

    found = {"ls": cache.entries, "gc": cache.collect, "clear": cache.clear}[arguments.action]()
    if arguments.json:
        print(json.dumps(facts(found), indent=2))
        return 0
    verb = "removed " if arguments.action != "ls" else ""
    if found:
        print(table([_line(entry) for entry in reversed(found)], right=(0,)))
    total = bytes_text(sum(entry.num_bytes for entry in found))
    print(f"{verb}{len(found)} result{'' if len(found) == 1 else 's'}, {total}, in {cache.cache_folder()}")
    return 0


def facts(entries: Sequence[Any]) -> dict[str, Any]:
    """The entries as JSON."""
    from martlet.datasets import cache

    listed = [
        {
            "key": entry.key,
            "bytes": entry.num_bytes,
            "last_used": _time(entry.last_used_s),
            "is_finished": entry.is_finished,
            "about": entry.about,
        }
        for entry in entries
    ]
    return {"folder": str(cache.cache_folder()), "limit_bytes": cache.cache_bytes(), "entries": listed}


def _line(entry: Any) -> list[str]:
    return [bytes_text(entry.num_bytes), _time(entry.last_used_s), entry.key[:12], entry.about]


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
