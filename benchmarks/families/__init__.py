"""Compare tiny checkpoints of every model type with plain transformers loops."""
