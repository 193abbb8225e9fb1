"""The formats: a file each, from the bytes of a data file to Arrow tables, one block at a time."""

from martlet.datasets.sources.registry import EXTENSIONS, SOURCES, make_source
from martlet.datasets.sources.source import Restart, Source

__all__ = ["EXTENSIONS", "SOURCES", "Restart", "Source", "make_source"]
