"""`python -m cdropout bench`, and modules that the benchmarks of a checkout also use: timing, and dropout in NumPy."""
