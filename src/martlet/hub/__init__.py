"""Names to local files: "org/name", a folder or a file. The only room that reads the network, and only for what is not cached."""

from martlet.hub.snapshot import Snapshot, open_snapshot

__all__ = ["Snapshot", "open_snapshot"]
