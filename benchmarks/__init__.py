"""Measure the speed of dropout: `python -m benchmarks --help` lists the questions that can be asked."""
