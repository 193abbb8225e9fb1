"""The torch backend: modules built from an `Arch`, for training, any device, and as the reference."""
