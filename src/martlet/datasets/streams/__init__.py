"""Streams of rows: what is read, in which order, by whom, and how far. Nothing is read before it is iterated."""
