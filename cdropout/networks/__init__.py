"""Multilayer perceptrons with dropout in NumPy: the network, its losses, its optimizers and its sub-networks.

The estimators of `cdropout.sklearn` train these networks, and `cdropout.digits` uses the optimizer.
"""

from cdropout.networks.activations import ACTIVATIONS
from cdropout.networks.losses import logistic_loss, softmax_loss, squared_loss
from cdropout.networks.mlp import KINDS, MLP, evaluate, pass_hidden
from cdropout.networks.optimizers import SGD, Adam
from cdropout.networks.sampling import SubNetwork, draw_sub_network, n_layers_before

__all__ = [
    "ACTIVATIONS",
    "KINDS",
    "MLP",
    "SGD",
    "Adam",
    "SubNetwork",
    "draw_sub_network",
    "evaluate",
    "logistic_loss",
    "n_layers_before",
    "pass_hidden",
    "softmax_loss",
    "squared_loss",
]
