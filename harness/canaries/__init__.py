"""Canaries of a run: signs that a model, its weights or its tokenizer are defective."""
