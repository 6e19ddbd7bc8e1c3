"""Replacements for the dropout of well-known NumPy networks, one module each; no other module imports them."""
