"""A NumPy network that learns handwritten digits: programs on the package `cdropout.digits`."""
