"""Measuring: this machine, our engine on it, and others on the same files in turn."""
