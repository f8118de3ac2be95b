"""GPT-2 as nanoGPT, build-nanogpt and llm.c write it, and its tokenizers."""
