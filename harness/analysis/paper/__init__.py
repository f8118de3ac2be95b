"""The published tables, and the comparison of our scores with them."""
