"""Names to local files: "org/name", a folder or a file. The only room that reads the network; the cache comes first."""

from martlet.hub.snapshot import Snapshot, open_snapshot

__all__ = ["Snapshot", "open_snapshot"]
