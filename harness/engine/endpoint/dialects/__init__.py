"""How each server is asked, and what its answers must look like."""
