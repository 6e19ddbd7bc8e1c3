"""The benchmarks as a package, so that `python -m benchmarks` finds them and no other package of that name."""
