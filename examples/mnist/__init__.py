"""A NumPy network that learns handwritten digits: the package `digits`, and the programs beside it."""
