"""Smaller models: what each tensor is stored in, chosen by measured divergence, and saved as a folder or as GGUF."""
