"""`python -m cdropout bench`, and what the benchmarks of a checkout share with it: timing, and NumPy's own dropout."""
