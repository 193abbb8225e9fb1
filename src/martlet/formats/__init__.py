"""Reading and writing weights and small files: safetensors, GGUF, torch pickles, JSON. Input is taken to be hostile."""
