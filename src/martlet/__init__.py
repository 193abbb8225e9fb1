"""martlet: load, run, train and serve open transformer models with the code people write for `transformers`."""

__version__ = "0.1.0"
