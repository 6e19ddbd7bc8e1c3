"""The network that `python -m cdropout train` trains on images of digits: data, layers, training, checkpoints, scores.

The examples and benchmarks of a checkout use it too.
"""
