"""Repeat every public call, and every kind of error, and print the growth of the process's memory.

    python tests/repeated_calls.py N_CALLS [control]

Each line has the name of a call, a tab, and bytes. With `control`, a list keeps an object of every call.
"""

import gc
import pickle
import signal
import sys
from pathlib import Path

import numpy as np

import cdropout as cd
from cdropout import _kernels
from cdropout._kernels import restore


def resident():
    """Return this process's resident memory in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) << 10


x, dy, columns = np.ones((10, 10), np.float32), np.ones((10, 10), np.float32), np.ones(10, np.float32)
out, reversed_x, weight = np.empty_like(x), x[::-1], np.ones((10, 5), np.float32)
image, view = np.ones((1, 3, 6, 6), np.float32), memoryview(bytearray(400)).cast("B").cast("f", (10, 10))
sequence, volume = np.ones((1, 3, 8), np.float32), np.ones((1, 3, 2, 3, 4), np.float32)
pixels, table, tokens = np.ones((9, 9, 3), np.uint8), np.ones((10, 10), np.int32), np.arange(100)
long, huge = np.ones(200_000, np.float32), np.broadcast_to(np.float32(1), (1 << 23, 1 << 22))
stream, generator = cd.Stream(1), np.random.Generator(cd.StreamBitGenerator(1))
mask, noise = cd.Mask(1, 0, 0.3, (10, 10)), cd.Noise(1, 0, 0.3, (10, 10))
pickles = [pickle.dumps(value) for value in (mask, mask[2:], noise, stream, cd.Dropout(0.3, rng=1))]
layers = [
    *(cls(0.3, rng=1) for cls in (cd.Dropout, cd.FeatureDropout, cd.LockedDropout, cd.DropPath, cd.AlphaDropout)),
    *(cls(0.3, rng=1) for cls in (cd.ReLUDropout, cd.GaussianDropout, cd.GaussianNoise)),
    cd.BiasReLUDropout(columns, 0.3, rng=1),
    cd.Dropout(0.3, rng=1, shared_axes=0, inplace=True),
]
residual_layers = [cd.DropoutAdd(0.3, rng=1), cd.Zoneout(0.3, rng=1), cd.BiasDropoutAdd(columns, 0.3, rng=1)]
image_layers = [
    *(cls(rng=1) for cls in (cd.Dropout2d, cd.SpatialDropout2D, cd.FeatureAlphaDropout)),
    cd.DropBlock2d(block_size=2, rng=1),
]
sequence_layers = [cls(rng=1) for cls in (cd.Dropout1d, cd.SpatialDropout1D)]
volume_layers = [cls(rng=1) for cls in (cd.Dropout3d, cd.SpatialDropout3D)]
linear_layers = [cls(10, 5, 0.3, rng=1) for cls in (cd.DropConnect, cd.FeatureDropoutLinear)]
state, bits_state = stream.state, generator.bit_generator.state


class Dlpack:
    """An object with only the DLPack protocol."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **keywords):
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return 1, 0


def there_and_back(layer, *inputs):
    layer.backward(layer.forward(*inputs))


def fails(call):
    try:
        call()
    except (TypeError, ValueError, OverflowError, RuntimeError, IndexError, MemoryError):
        return
    raise AssertionError("no error")


def with_dropout_on():
    with cd.dropout_on(layers, rng=stream):
        layers[0].forward(x)


def interrupt():
    """Interrupt a call by a signal between two of its slices."""
    before = _kernels.set_limits(max_elems_per_slice=10_000, microseconds_between_checks=0)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        while True:
            signal.setitimer(signal.ITIMER_REAL, 0.0002)
            for _ in range(100):
                cd.dropout(long, 0.3, rng=stream)
    except KeyboardInterrupt:
        _kernels.set_limits(**before)


CALLS = {
    "dropout": lambda: cd.dropout(x, 0.3, rng=stream),
    "dropout, default stream": lambda: cd.dropout(x, 0.3),
    "dropout, seed": lambda: cd.dropout(x, 0.3, rng=1),
    "dropout, generator": lambda: cd.dropout(x, 0.3, rng=generator),
    "dropout, out": lambda: cd.dropout(x, 0.3, rng=stream, out=out),
    "dropout, layout": lambda: cd.dropout(reversed_x, 0.3, rng=stream),
    "dropout, shared axes": lambda: cd.dropout(x, 0.3, rng=stream, shared_axes=(0,)),
    "dropout, list": lambda: cd.dropout([1.0, 2.0], 0.3, rng=stream),
    "dropout, memoryview": lambda: cd.dropout(view, 0.3, rng=stream, out=view),
    "dropout, DLPack": lambda: cd.dropout(Dlpack(x), 0.3, rng=stream),
    "integers": lambda: [
        mask.select(table, columns.astype(int)),
        mask.apply(table, fill=3),
        cd.pixel_dropout(pixels, 0.3, fill=[1, 2, 3], rng=stream),
        cd.coarse_dropout(pixels, fill=4, rng=stream),
        cd.column_dropout(table, 0.3, replace="swap", rng=stream),
        cd.token_dropout(tokens, 0.3, 5, keep_special=[1], replace_random=9, rng=stream, return_mask=True),
    ],
    "integers, errors": lambda: [
        fails(lambda: mask.select(table, "a")),
        fails(lambda: cd.pixel_dropout(pixels, 0.3, fill=300, rng=stream)),
        fails(lambda: cd.token_dropout(tokens, 0.3, 5, replace_random=0, rng=stream)),
    ],
    "decisions": lambda: [
        *(mask.keep(dtype="u2"), mask.dropped(), mask[1:, 1:].packed(), mask.count(), mask.indices()),
        *(cd.bernoulli(100, 0.3, rng=stream), cd.bernoulli((10, 10), columns * 0.5, rng=stream)),
    ],
    "functions": lambda: [
        f(x, 0.3, rng=stream)
        for f in (
            *(cd.relu_dropout, cd.alpha_dropout, cd.feature_dropout, cd.locked_dropout, cd.drop_path),
            *(cd.gaussian_dropout, cd.gaussian_noise),
        )
    ],
    "functions of two": lambda: [f(x, dy, 0.3, rng=stream) for f in (cd.dropout_add, cd.zoneout)],
    "functions with a bias": lambda: (
        cd.bias_relu_dropout(x, columns, 0.3, rng=stream),
        cd.bias_dropout_add(x, columns, dy, 0.3, rng=stream),
    ),
    "functions of images": lambda: [f(image, 0.3, rng=stream) for f in (cd.dropout2d, cd.feature_alpha_dropout)],
    "functions of sequences and volumes": lambda: (
        cd.dropout1d(sequence, 0.3, rng=stream),
        cd.dropout3d(volume, 0.3, rng=stream),
    ),
    "blocks of images": lambda: cd.drop_block2d(image, 0.3, block_size=2, rng=stream),
    "backward": lambda: cd.relu_dropout_backward(dy, x, 0.3),
    "linear": lambda: (
        cd.drop_connect(x, weight, None, 0.3, rng=stream),
        cd.feature_dropout_linear(x, weight, None, 0.3, rng=stream),
        cd.drop_connect_moments(x, weight, None, 0.3),
    ),
    "mask": lambda: (mask.apply(x), mask.keep(), mask.scaled(), mask[2:, ::3].keep(), hash(mask), mask == mask[:]),
    "drawing": lambda: (cd.draw_mask((10, 10), 0.3, rng=stream), cd.draw_noise(10, 0.3, rng=stream)),
    "noise": lambda: (noise.add(x), noise.multiply(x, out)),
    "stream": lambda: (stream.fold_in("a"), stream.state, repr(stream)),
    "stream's state": lambda: setattr(cd.Stream(1), "state", state),
    "spawn": lambda: cd.Stream(1).spawn(2),
    "bit generator": lambda: (generator.random(), setattr(generator.bit_generator, "state", bits_state)),
    "new bit generator": lambda: cd.StreamBitGenerator(1).jumped().random_raw(),
    "pickles": lambda: [pickle.dumps(pickle.loads(data)) for data in pickles],
    "layers": lambda: [there_and_back(layer, x) for layer in layers],
    "layers of two": lambda: [layer.backward(layer.forward(x, dy)) for layer in residual_layers],
    "layers of images": lambda: [there_and_back(layer, image) for layer in image_layers],
    "layers of sequences and volumes": lambda: (
        [there_and_back(layer, sequence) for layer in sequence_layers],
        [there_and_back(layer, volume) for layer in volume_layers],
    ),
    "linear layers": lambda: [layer.backward(layer.forward(x)) for layer in linear_layers],
    "new layers": lambda: (cd.Dropout(0.3, rng=1), cd.AlphaDropout(0.3).eval().forward(x), repr(layers[0])),
    "modes": lambda: (cd.eval(layers), cd.train(layers), with_dropout_on()),
    "mc_predict": lambda: cd.mc_predict(layers, x, 3, rng=stream),
    "mc_predict, rows": lambda: cd.mc_predict(cd.dropout, x, 4, rng=stream, samples_per_pass=2),
    "get_include": cd.get_include,
    "layer's state": lambda: [setattr(layer, "state", layer.state) for layer in layers[:2]],
    "a bad p": lambda: fails(lambda: cd.dropout(x, 1.5, rng=stream)),
    "a bad x": lambda: fails(lambda: cd.dropout([None], 0.3, rng=stream)),
    "a bad out": lambda: fails(lambda: cd.dropout(x, 0.3, rng=stream, out=reversed_x)),
    "a bad bias": lambda: fails(lambda: cd.bias_relu_dropout(x, columns[1:], 0.3, rng=stream)),
    "bad axes": lambda: fails(lambda: cd.dropout(x, 0.3, rng=stream, shared_axes=(0, 5))),
    "a bad shape": lambda: fails(lambda: cd.draw_mask((2**40, 2**40), 0.3, rng=stream)),
    "a bad rng": lambda: fails(lambda: cd.dropout(x, 0.3, rng="seed")),
    "a bad state": lambda: fails(lambda: setattr(stream, "state", {**state, "position": 1})),
    "a bad mask": lambda: fails(lambda: mask.apply(x[1:])),
    "a bad key": lambda: fails(lambda: cd.Mask(-1, 0, 0.3, 3)),
    "a bad noise": lambda: fails(lambda: cd.Noise(1, 0, -1.0, 3)),
    "a bad pickle": lambda: fails(lambda: restore(cd.Mask, 9, 1, 0, 0.3, (3,))),
    "a bad layer": lambda: fails(lambda: cd.Dropout(0.3).backward(x)),
    "a bad number of samples": lambda: fails(lambda: cd.mc_predict(layers, x, 0)),
    "no memory": lambda: fails(lambda: cd.dropout(huge, 0.3, rng=stream)),
    "no memory for a mask": lambda: fails(cd.Mask(1, 0, 0.3, 1 << 50).keep),
    "KeyboardInterrupt": interrupt,
}


def growth_of(call, n_calls):
    """Return the growth of the process's memory over n_calls calls, in bytes."""
    for _ in range(200):
        call()
    for _ in range(3):
        gc.collect()
        before = resident()
        for _ in range(n_calls):
            call()
        gc.collect()
        grown = resident() - before
        if grown < 1 << 20:  # more may be the allocator's, which does not grow twice
            break
    return grown


if __name__ == "__main__":
    if "control" in sys.argv:
        kept = []
        CALLS = {"control": lambda: kept.append(bytes(100))}
    for name, call in CALLS.items():
        print(name, growth_of(call, int(sys.argv[1])), sep="\t")
