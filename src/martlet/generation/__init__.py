"""Generation over any backend: configuration, scores, stopping, streaming, the decode loop. Knows no torch modules."""
