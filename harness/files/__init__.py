"""Read and write files safely: atomic writes, strict JSON, escaped text."""
