"""Example programs. A package, so that the benchmarks and their tests can import the network of `mnist`."""
