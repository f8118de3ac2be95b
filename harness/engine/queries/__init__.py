"""Queries: requests as token ids, and the rows and batches in which they are fed. No tensors."""
