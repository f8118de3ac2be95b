"""Model families: what tiny checkpoints of each type score beside naive transformers loops."""
