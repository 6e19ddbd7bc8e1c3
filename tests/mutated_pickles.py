"""Load mutated pickles and set mutated states: each gives an exception or a valid object. This is a program, so that
tests/test_mutated_pickles.py, which runs it, notices a crash.

    python tests/mutated_pickles.py N_MUTATIONS SEED
"""

import contextlib
import copy
import io
import json
import os
import pickle
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

import cdropout as cd
from cdropout import _kernels
from cdropout.layers.base import Layer

X = np.random.default_rng(0).standard_normal((2, 3, 8, 9)).astype(np.float32)


def layers() -> dict[str, tuple[Layer, tuple[int, ...]]]:
    """Return a layer of each class, after a forward pass, with the shape of its input."""
    made: dict[str, tuple[Layer, tuple[int, ...]]] = {
        cls.__name__: (cls(0.3, rng=1), (2, 3, 8, 9))
        for cls in (
            *(cd.Dropout, cd.Dropout2d, cd.FeatureDropout, cd.LockedDropout, cd.DropPath, cd.AlphaDropout),
            *(cd.FeatureAlphaDropout, cd.ReLUDropout, cd.DropBlock2d, cd.GaussianDropout, cd.GaussianNoise),
        )
    }
    made["Dropout, original"] = cd.Dropout(0.5, rng=2, rescale="eval", shared_axes=(0, -1), inplace=True), (4, 6)
    made["BiasReLUDropout"] = cd.BiasReLUDropout(np.ones(6, np.float32), 0.3, rng=1), (4, 6)
    made["DropConnect"] = cd.DropConnect(6, 3, 0.3, rng=1), (4, 6)
    made["FeatureDropoutLinear"] = cd.FeatureDropoutLinear(6, 3, 0.3, rng=1), (4, 6)
    for layer, shape in made.values():
        layer(X.ravel()[: np.prod(shape)].reshape(shape).copy())
    return made


LAYERS = layers()
VALUES = (
    cd.Mask(2**127 + 5, 8192, 0.25, (3, 4), 1),
    cd.Mask(1, 0, 1.0, ()),
    cd.draw_mask((30, 4, 50), 0.1, rng=1, shared_axes=1)[5:, :, 3:7],
    cd.Noise(2**100, 4096, 0.5, (7, 2)),
)


def streams() -> tuple[cd.Stream, ...]:
    plain, child, of_words = cd.Stream(1), cd.Stream(2**100).spawn(3)[2], cd.Stream(np.random.SeedSequence([1, 2, 3]))
    cd.draw_mask(5000, 0.5, rng=child)
    of_words.spawn(2)
    return plain, child, of_words


STREAMS = streams()
# Replacements for values.
STRANGE = (
    *(None, True, False, 0, 1, -1, 3, 4096, 4097, 2**32 - 1, 2**32, 2**63, 2**64 - 4096, 2**64, 2**128, -(2**70)),
    *(10**400, 0.0, -0.0, 0.5, 1.0, 1.5, -1e-9, float("nan"), float("inf"), 5e-324, 0.5j, "", "0.5", "p", b"\x00"),
    *((), [], {}, set(), (1,), (2, 3), [0], (-1, 5), (2**40, 2**40), (1,) * 65, [[1]], {"p": 1}),
    *("train", "eval", "both", "first", "PCG64"),
    *(np.float32(0.5), np.int64(3), np.array(0.5), np.zeros(3), np.bool_(True), object, cd.dropout, ...),
    *(cd.Mask(1, 0, 0.5, (3, 4)), cd.Noise(1, 0, 0.5, 3), cd.Stream(3)),
)

# ---- mutations ------------------------------------------------------------------------------------------------------


def mutate_bytes(data: bytes, chance: np.random.Generator) -> bytes:
    """Change a pickle in one to four places, most often in one byte."""
    changed = bytearray(data)
    if chance.integers(2):
        changed[chance.integers(len(changed))] ^= 1 << int(chance.integers(8))
        return bytes(changed)
    for _ in range(chance.integers(1, 5)):
        at, end = sorted(int(n) for n in chance.integers(0, len(changed) + 1, 2))
        kind = chance.integers(6)
        if kind == 0:
            del changed[at : min(end, at + 9)]
        elif kind == 1:
            changed[at:at] = chance.bytes(int(chance.integers(1, 9)))
        elif kind == 2:
            changed[at:at] = changed[at:end]
        elif kind == 3 and at < len(changed):
            changed[at] ^= 1 << int(chance.integers(8))
        elif kind == 4 and at < len(changed):
            changed[at] = int(chance.integers(256))
        elif kind == 5 and chance.integers(4) == 0:
            del changed[at:]
        if not changed:
            return b"."
    return bytes(changed)


def mutate_fields(fields: Any, chance: np.random.Generator) -> Any:
    """Replace, remove or add one field of a tuple, list or dict, or one field of a field."""
    keys = list(fields) if isinstance(fields, dict) else list(range(len(fields)))
    changed = dict(fields) if isinstance(fields, dict) else list(fields)
    strange = STRANGE[chance.integers(len(STRANGE))]
    kind = chance.integers(8)
    if not keys or kind == 0:
        if isinstance(changed, dict):
            changed["more"] = strange
        else:
            changed.append(strange)
    else:
        key = keys[chance.integers(len(keys))]
        if kind == 1:
            del changed[key]
        elif kind <= 4 and isinstance(changed[key], dict | list | tuple):
            changed[key] = mutate_fields(changed[key], chance)
        else:
            changed[key] = strange
    return tuple(changed) if isinstance(fields, tuple) else changed


class NamesOf(pickle.Unpickler):
    """An unpickler that records the names that a pickle loads."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.names: set[tuple[str, str]] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.names.add((module, name))
        return super().find_class(module, name)


def pickles() -> tuple[tuple[bytes, ...], set[tuple[str, str]]]:
    """Return pickles in every protocol, and the names that they load. Pickles with arrays are left out, because NumPy
    loads the arrays.
    """
    kept, allowed = [], set()
    for original in (*VALUES, *STREAMS, cd.StreamBitGenerator(1), *(layer for layer, _ in LAYERS.values())):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            unpickler = NamesOf(pickle.dumps(original, protocol))
            assert check(unpickler.load()) == "whole"
            if not any("_core" in module for module, _ in unpickler.names):
                kept.append(pickle.dumps(original, protocol))
                allowed |= unpickler.names
    return tuple(kept), allowed


class Unpickler(pickle.Unpickler):
    """An unpickler that loads only names of these pickles and of this library: a mutated name must run no program."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ALLOWED or (module.split(".")[0] == "cdropout" and "." not in name):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not of these pickles")


# ---- checks of loaded objects ---------------------------------------------------------------------------------------


def check_value(drawn: Any) -> None:
    """Raise AssertionError unless a mask or noise is one that its constructor allows."""
    assert type(drawn)(*drawn._fields()) == drawn
    assert pickle.loads(pickle.dumps(drawn)) == drawn
    assert 0 <= drawn.start < 2**64
    assert 0 <= drawn.key < 2**128
    if np.prod([float(n) for n in drawn.shape]) < 1e5:
        x = np.ones(drawn.shape, np.float32)
        (drawn.apply if isinstance(drawn, cd.Mask) else drawn.multiply)(x)


def check_stream(stream: cd.Stream) -> None:
    state = stream.state
    assert json.loads(json.dumps(state)) == state
    assert stream.position % 4096 == 0
    again = cd.Stream(0)
    again.state = state
    assert again.key == stream.key
    with contextlib.suppress(OverflowError):
        cd.draw_mask(5000, 0.5, rng=again).keep()


def check_layer(layer: Layer) -> None:
    """Check a layer's rate and state, and run it on small arrays, with any exception allowed."""
    assert 0 <= getattr(layer, layer._rate_name) <= (1e37 if layer._rate_name == "std" else 1)
    state = copy.deepcopy(layer.state)
    layer.state = state
    with np.errstate(all="ignore"), contextlib.suppress(Exception):
        for shape in ((2, 3, 8, 9), (4, 6)):
            with contextlib.suppress(Exception):
                layer.forward(X.ravel()[: np.prod(shape)].reshape(shape).copy())
            layer.backward(np.ones(shape, np.float32))


def check_bit_generator(generator: Any) -> None:
    generator.random_raw(3)
    state = generator.state
    generator.state = state
    assert generator.state == state


def check(loaded: Any) -> str:
    """Check a loaded object; return "whole" for a valid object of this library, otherwise "something else"."""
    for kind, check_kind in (
        (_kernels.Drawn, check_value),
        (cd.Stream, check_stream),
        (Layer, check_layer),
        (cd.StreamBitGenerator, check_bit_generator),
    ):
        if isinstance(loaded, kind):
            check_kind(loaded)
            return "whole"
    return "something else"


PICKLES, ALLOWED = pickles()

# ---- ways of mutating -----------------------------------------------------------------------------------------------


def load_bytes(chance: np.random.Generator) -> str:
    data = mutate_bytes(PICKLES[chance.integers(len(PICKLES))], chance)
    return check(Unpickler(io.BytesIO(data)).load())


def restore_fields(chance: np.random.Generator) -> str:
    _, arguments, *_ = VALUES[chance.integers(len(VALUES))].__reduce__()
    return check(_kernels.restore(arguments[0], *mutate_fields(arguments[1:], chance)))


def restore_stream(chance: np.random.Generator) -> str:
    restore, (state,) = STREAMS[chance.integers(len(STREAMS))].__reduce__()
    return check(restore(mutate_fields(state, chance)))


def set_state(chance: np.random.Generator) -> str:
    """Set a mutated state; if this fails, check that nothing has changed."""
    owners = [*copy.deepcopy(STREAMS), copy.deepcopy(LAYERS["Dropout"][0]), copy.deepcopy(LAYERS["GaussianNoise"][0])]
    owners.append(cd.StreamBitGenerator(5))
    owner = owners[chance.integers(len(owners))]
    before = owner.state
    changed = mutate_fields(copy.deepcopy(before), chance)
    try:
        owner.state = changed
    except (TypeError, ValueError):
        assert owner.state == before, changed
        raise
    return check(owner)


def set_layer_fields(chance: np.random.Generator) -> str:
    names = sorted(LAYERS)
    layer, _ = LAYERS[names[chance.integers(len(names))]]
    again = type(layer).__new__(type(layer))
    again.__setstate__(mutate_fields(copy.deepcopy(layer.__getstate__()), chance))
    return check(again)


WAYS: tuple[Callable[[np.random.Generator], str], ...] = (
    load_bytes,
    load_bytes,
    restore_fields,
    restore_stream,
    set_state,
    set_layer_fields,
)


def main(n_mutations: int, seed: int) -> None:
    """Run the mutations and print the number of each outcome, a line for each way of mutating."""
    limit_memory()
    outcomes: Counter[tuple[str, str]] = Counter()
    for i in range(n_mutations):
        way = WAYS[i % len(WAYS)]
        try:
            outcome = way(np.random.default_rng([seed, i]))
        except AssertionError:
            print(f"mutation {i} of seed {seed}: {way.__name__}", file=sys.stderr)
            raise
        except Exception:
            outcome = "refused"
        outcomes[way.__name__, outcome] += 1
    for (way_name, outcome), n in sorted(outcomes.items()):
        print(way_name, outcome, n)


def limit_memory() -> None:
    """Make a pickle with a length of gigabytes fail, if the system supports memory limits."""
    # AddressSanitizer needs terabytes of addresses, and has a separate limit.
    if "asan" in os.environ.get("LD_PRELOAD", ""):
        return
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, resource.getrlimit(resource.RLIMIT_DATA)[1]))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
