"""Adds pickles of this version to pickles.json, which must load in every later one; none that is there is changed.

    python tests/vectors/make_pickles.py

Run it where a class gets another version of its pickles, before the first release that writes them.
"""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

import cdropout as cd
from cdropout.stream import STATE_VERSION

FILE = Path(__file__).with_name("pickles.json")


def originals() -> dict[str, tuple[int, Any]]:
    """Return what is pickled, each with the version of its pickles."""
    whole = cd.draw_mask((30, 4, 50), 0.1, rng=2**100, shared_axes=1)
    stream = cd.Stream(np.random.SeedSequence([1, 2**40], spawn_key=(3,)))
    stream.spawn(2)
    cd.draw_mask(5000, 0.5, rng=stream)
    layer = cd.AlphaDropout(0.25, rng=7)
    layer.forward(np.ones((4, 6), np.float32))
    bit_generator = cd.StreamBitGenerator(5)
    np.random.Generator(bit_generator).integers(0, 9, 3, dtype=np.uint32)  # half of an output is left
    bias = np.linspace(-1, 1, 6, dtype=np.float32)
    zoneout = cd.Zoneout(0.25, rng=7).eval()
    zoneout.forward(bias, bias)
    return {
        "mask": (cd.Mask.PICKLE_VERSION, whole),
        "mask of a part": (cd.Mask.PICKLE_VERSION, whole[5:, :, 3:7]),
        "noise": (cd.Noise.PICKLE_VERSION, cd.draw_noise((7, 2), 0.5, rng=3)),
        "stream": (STATE_VERSION, stream),
        # Stream(2**200 + 17) before such seeds were refused.
        "stream of a large seed": (STATE_VERSION, cd.Stream(np.random.SeedSequence(2**200 + 17))),
        "layer": (STATE_VERSION, layer),
        **{
            f"layer {type(each).__name__}": (STATE_VERSION, each)
            for each in (
                cd.DropConnect(6, 3, rng=7),
                cd.DropBlock2d(block_size=3, rng=7),
                cd.BiasReLUDropout(bias, 0.25, rng=7),
                cd.GaussianNoise(0.5, rng=7),
                zoneout,
            )
        },
        # Its class's name is the version.
        "bit generator": (1, bit_generator),
    }


def digest(loaded: Any) -> str:
    """Return SHA-256 of what a loaded object does."""
    if isinstance(loaded, cd.Mask):
        made = loaded.keep()
    elif isinstance(loaded, cd.Noise):
        made = loaded.add(np.zeros(loaded.shape, np.float32))
    elif isinstance(loaded, cd.Stream):
        made = np.stack([cd.draw_mask(9000, 0.3, rng=stream).keep() for stream in (loaded, *loaded.spawn(1))])
    elif isinstance(loaded, cd.StreamBitGenerator):
        generator = np.random.Generator(loaded)
        made = generator.integers(0, 1 << 32, 100, np.uint32)
    elif isinstance(loaded, cd.Zoneout):
        made = np.stack(loaded.backward(np.ones(6, np.float32)))
    elif not isinstance(loaded, cd.AlphaDropout):  # a layer as it is made
        x = np.linspace(-1, 1, 2 * 3 * 7 * 6, dtype=np.float32).reshape(2, 3, 7, 6)
        # The signs, because matrix products and means are rounded as NumPy likes.
        made = np.sign(loaded.forward(x[0, 0] if isinstance(loaded, cd.DropConnect) else x)).astype(np.int8)
    else:
        before = loaded.mask.keep()
        loaded.forward(np.ones((4, 6), np.float32))
        made = np.stack([before, loaded.mask.keep()])
    return hashlib.sha256(made.astype(made.dtype.newbyteorder("<")).tobytes()).hexdigest()


def main() -> None:
    """Write the file."""
    entries = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name, (version, original) in originals().items():
        for protocol in (0, 2, 4):
            key = f"{name}, version {version}, protocol {protocol}"
            if key in entries and type(original).__module__.encode() not in bytes.fromhex(entries[key]["pickle"]):
                # The class has moved since: its pickles name another module, and both must load.
                key = f"{name} of {type(original).__module__}, version {version}, protocol {protocol}"
            data = pickle.dumps(original, protocol)
            if key not in entries:
                entries[key] = {"pickle": data.hex(), "digest": digest(pickle.loads(data))}
    FILE.write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    main()
