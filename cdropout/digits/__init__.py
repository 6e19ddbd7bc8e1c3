"""The training on images of digits behind `python -m cdropout train`: data, training, checkpoints, scores.

The examples and benchmarks of a checkout use it too. The network is that of `cdropout.networks`.
"""
