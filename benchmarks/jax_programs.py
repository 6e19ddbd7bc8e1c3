"""JAX programs that drop, and the ways in which they draw their masks.

The question `jax` measures them. A program is a network in plain JAX with Adam, jitted as one training step. `WAYS`
says how elements are dropped: by which function, with which implementation of keys, and within which context the step
is traced. A further way is one more entry.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import cdropout.jax

Dropout = Callable[[jax.Array, jax.Array, float], jax.Array]
Weights = Any


def stock_dropout(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    """Drop as Flax and Equinox do: by `jax.random.bernoulli`."""
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0)


@dataclass(frozen=True)
class Way:
    """Say how a program drops.

    Attributes
    ----------
    dropout : callable
        Takes a key, an array and the probability of dropping.
    impl : str or object
        The implementation of keys, for `jax.random.key`.
    within : callable
        Returns the context manager in which the step is traced.

    """

    dropout: Dropout
    impl: Any = "threefry2x32"
    within: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext

    def key(self, seed: int) -> jax.Array:
        """Return a key of the implementation."""
        return jax.random.key(seed, impl=self.impl)


NONE = "none"
WAYS: dict[str, Way] = {
    NONE: Way(lambda key, x, rate: x),
    "threefry": Way(stock_dropout),
    "rbg": Way(stock_dropout, impl="rbg"),
    "cdropout.jax.dropout": Way(cdropout.jax.dropout),
    "cdropout.jax.enable": Way(stock_dropout, within=cdropout.jax.enabled),
    "cdropout.jax.prng": Way(stock_dropout, impl=cdropout.jax.prng),
}


def _dense(rng: np.random.Generator, n_in: int, n_out: int) -> Weights:
    weights = rng.standard_normal((n_in, n_out), np.float32) / np.float32(np.sqrt(n_in))
    return {"w": jnp.asarray(weights), "b": jnp.zeros(n_out)}


def _apply(layer: Weights, x: jax.Array) -> jax.Array:
    return x @ layer["w"] + layer["b"]


def _cross_entropy(scores: jax.Array, labels: jax.Array) -> jax.Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(scores), labels[..., None], -1).mean()


@dataclass(frozen=True)
class MLP:
    """A perceptron 784-512-512-10 with ReLU and dropout after both hidden layers.

    Attributes
    ----------
    batch : int
        The samples of a step.
    rate : float
        The probability of dropping.

    """

    batch: int = 128
    rate: float = 0.5

    def weights(self) -> Weights:
        """Return random weights."""
        rng = np.random.default_rng(0)
        return [_dense(rng, *widths) for widths in ((784, 512), (512, 512), (512, 10))]

    def samples(self) -> tuple[jax.Array, jax.Array]:
        """Return random inputs and labels."""
        rng = np.random.default_rng(1)
        x = rng.random((self.batch, 784), np.float32)
        return jnp.asarray(x), jnp.asarray(rng.integers(0, 10, self.batch))

    def loss(self, weights: Weights, samples: Any, key: jax.Array, dropout: Dropout) -> jax.Array:
        """Return the cross entropy."""
        x, labels = samples
        for layer, each in zip(weights[:-1], jax.random.split(key), strict=True):
            x = dropout(each, jax.nn.relu(_apply(layer, x)), self.rate)
        return _cross_entropy(_apply(weights[-1], x), labels)


@dataclass(frozen=True)
class Encoder:
    """A Transformer encoder of two layers, with the four dropouts of each that PyTorch's and Flax's have.

    Attributes
    ----------
    width, n_heads : int
        The features of a token, and the heads of attention that share them.
    rate : float
        The probability of dropping.

    """

    width: int = 256
    n_heads: int = 4
    rate: float = 0.1
    n_layers: int = 2
    batch: int = 8
    length: int = 128

    def weights(self) -> Weights:
        """Return random weights."""
        rng = np.random.default_rng(0)
        sizes = {"qkv": (1, 3), "out": (1, 1), "up": (1, 4), "down": (4, 1)}
        return [
            {name: _dense(rng, i * self.width, o * self.width) for name, (i, o) in sizes.items()}
            for _ in range(self.n_layers)
        ]

    def samples(self) -> Any:
        """Return random tokens and targets."""
        rng = np.random.default_rng(1)
        shape = (self.batch, self.length, self.width)
        return tuple(jnp.asarray(rng.standard_normal(shape, np.float32)) for _ in range(2))

    def loss(self, weights: Weights, samples: Any, key: jax.Array, dropout: Dropout) -> jax.Array:
        """Return the mean squared error."""
        x, target = samples
        for layer, layer_key in zip(weights, jax.random.split(key, self.n_layers), strict=True):
            keys = jax.random.split(layer_key, 4)
            attended = _apply(layer["out"], self._attention(layer, _normalized(x), keys[0], dropout))
            x = x + dropout(keys[1], attended, self.rate)
            hidden = dropout(keys[2], jax.nn.gelu(_apply(layer["up"], _normalized(x))), self.rate)
            x = x + dropout(keys[3], _apply(layer["down"], hidden), self.rate)
        return jnp.mean((_normalized(x) - target) ** 2)

    def _attention(self, layer: Weights, x: jax.Array, key: jax.Array, dropout: Dropout) -> jax.Array:
        heads = self.batch, self.length, 3, self.n_heads, self.width // self.n_heads
        q, k, v = jnp.moveaxis(_apply(layer["qkv"], x).reshape(heads), 2, 0)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(heads[-1])
        weights = dropout(key, jax.nn.softmax(scores), self.rate)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape)


def _normalized(x: jax.Array) -> jax.Array:
    return jax.nn.standardize(x)


Program = MLP | Encoder
PROGRAMS: Mapping[str, Program] = {
    "MLP 784-512-512-10": MLP(),
    "encoder d=256": Encoder(),
    "encoder d=768": Encoder(width=768, n_heads=12),
}

# So small that no weight leaves its range, however many steps are timed.
LEARNING_RATE = 1e-6


def training_run(program: Program, way: Way) -> Callable[[], Callable[[], jax.Array]]:
    """Compile a training step, and return a function that begins a run of training from the same weights and key.

    It returns a function that makes a step of Adam and returns its loss, when it is ready.
    """
    weights = program.weights()
    zeros = jax.tree.map(jnp.zeros_like, weights)
    first_state = [weights, zeros, zeros, way.key(1), program.samples()]

    def step(weights: Weights, mean: Weights, square: Weights, key: jax.Array, samples: Any) -> Any:
        key, subkey = jax.random.split(key)
        loss, slopes = jax.value_and_grad(program.loss)(weights, samples, subkey, way.dropout)
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, slopes)
        square = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g * g, square, slopes)
        weights = jax.tree.map(lambda w, m, s: w - LEARNING_RATE * m / (jnp.sqrt(s) + 1e-8), weights, mean, square)
        return loss, weights, mean, square, key

    with way.within():
        compiled = jax.jit(step).lower(*first_state).compile()

    def begin() -> Callable[[], jax.Array]:
        state = list(first_state)

        def make_step() -> jax.Array:
            loss, *state[:4] = compiled(*state)
            return loss.block_until_ready()

        return make_step

    return begin
