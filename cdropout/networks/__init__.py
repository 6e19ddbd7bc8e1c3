"""Multilayer perceptrons with dropout in NumPy: the network, its losses, its optimizers and its sub-networks.

The estimators of `cdropout.sklearn`, the training of `cdropout.digits`, the examples and the benchmarks use them.
"""

from cdropout.networks.activations import ACTIVATIONS
from cdropout.networks.evaluation import evaluate, pass_hidden
from cdropout.networks.initialization import fill_he_uniform, glorot_uniform, lecun_normal
from cdropout.networks.layers import DropoutLayer
from cdropout.networks.losses import Loss, logistic_loss, softmax, softmax_loss, squared_loss
from cdropout.networks.mlp import KINDS, MLP
from cdropout.networks.optimizers import SGD, Adam
from cdropout.networks.sampling import SubNetwork, draw_sub_network, n_layers_before
from cdropout.networks.training import train_step

__all__ = [
    "ACTIVATIONS",
    "KINDS",
    "MLP",
    "SGD",
    "Adam",
    "DropoutLayer",
    "Loss",
    "SubNetwork",
    "draw_sub_network",
    "evaluate",
    "fill_he_uniform",
    "glorot_uniform",
    "lecun_normal",
    "logistic_loss",
    "n_layers_before",
    "pass_hidden",
    "softmax",
    "softmax_loss",
    "squared_loss",
    "train_step",
]
