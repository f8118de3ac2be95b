"""Reading and writing files safely: atomic writes, strict JSON, escaped text."""
