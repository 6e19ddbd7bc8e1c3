"""The sample of MNIST, on which the programs and tests train unless they are given other data."""

from pathlib import Path

SAMPLE = Path(__file__).parent / "data" / "mnist_sample.npz"
