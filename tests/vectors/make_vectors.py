"""Writes known_answers.json and frozen_digests.json: what the specification's model (tests/reference.py) gives for
stream version 1.

    python tests/vectors/make_vectors.py

Once a version is released its files never change; the tests compare the library with the files, and the files with the
model.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import frozen_cases  # noqa: E402
import reference  # noqa: E402

SEEDS = (0, 1, 42, 2**64 - 1, 2**128 + 5)
STARTS = (0, 4096, 70, 2**31 - 100, 2**32 - 4096, 2**63 - 1)
# 0.0244140625 is 1600 / 2^16, where no tie is ever drawn; 0.3 + 2^-40 differs from 0.3 in its ties alone.
PROBABILITIES = (1e-6, 0.0244140625, 0.1, 0.3, 0.3 + 2**-40, 0.5, 0.9, 1 - 1e-6)
N_ELEMS = 3 * reference.ELEMS_PER_BLOCK + 7


def known_answers(n_seeds: int = len(SEEDS)) -> dict[str, object]:
    """Return the file's contents, or those for its first few seeds."""
    return {
        "stream_version": 1,
        "raw": [
            {
                "seed": str(seed),
                "key": f"{reference.key_of_seed(seed):032x}",
                "first_block": first_block,
                "first_bytes": reference.raw_bytes(reference.key_of_seed(seed), first_block, 1)[:32].hex(),
                "sha256_of_2_blocks": hashlib.sha256(
                    reference.raw_bytes(reference.key_of_seed(seed), first_block, 2)
                ).hexdigest(),
            }
            for seed in SEEDS[:n_seeds]
            for first_block in (0, 2**32 - 1, 2**52 - 3)
        ],
        "keep": [
            {
                "seed": str(seed),
                "start": start,
                "n_elems": N_ELEMS,
                "p": p.hex(),
                "n_dropped": int(np.count_nonzero(~kept)),
                "sha256_of_packed_bits": hashlib.sha256(np.packbits(kept, bitorder="little").tobytes()).hexdigest(),
            }
            for seed in SEEDS[: min(n_seeds, 3)]
            for start in STARTS
            for p in PROBABILITIES
            for kept in [reference.keep(reference.key_of_seed(seed), start, N_ELEMS, p)]
        ],
        "normals": [
            {
                "seed": str(seed),
                "start": start,
                "n_elems": N_ELEMS,
                "first": [float(number).hex() for number in numbers[:4]],
                "sha256_of_float32": hashlib.sha256(numbers.astype("<f4").tobytes()).hexdigest(),
            }
            for seed in SEEDS[:n_seeds]
            for start in STARTS
            for numbers in [reference.normals(reference.key_of_seed(seed), start, N_ELEMS)]
        ],
    }


def frozen_digests() -> dict[str, object]:
    """Return what the 64 cases of tests/frozen_cases.py give."""
    cases = [{**case.as_json(), "sha256": frozen_cases.digest(case.expected())} for case in frozen_cases.frozen_cases()]
    return {"stream_version": 1, "cases": cases}


if __name__ == "__main__":
    for name, contents in (("known_answers", known_answers()), ("frozen_digests", frozen_digests())):
        (HERE / f"{name}.json").write_text(json.dumps(contents, indent=1) + "\n")
