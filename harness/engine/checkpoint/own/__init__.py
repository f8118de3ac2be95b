"""Models that are Python objects: any function from token ids to logits, and models in memory."""
