"""Checkpoint formats of other programs, each converted once into a folder of transformers."""
