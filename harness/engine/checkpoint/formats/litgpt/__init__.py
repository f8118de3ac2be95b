"""Folders of litgpt: models of the Llama and the GPT-NeoX family."""
