"""The published tables, and our scores beside them."""
