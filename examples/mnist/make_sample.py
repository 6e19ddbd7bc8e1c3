"""Make data/mnist_sample.npz, so that the programs can train without a download, from a folder of MNIST's idx files.

    python examples/mnist/make_sample.py FOLDER [--out FILE]

The choice is seeded, with the same number of images of every class, in the order of the source.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np

from cdropout.command import run_command
from cdropout.digits.data import DataError, LabelledImages, load_dataset
from cdropout.digits.files import check_writable, write_file
from sample import SAMPLE

PROG = "make_sample.py"
SEED = 20240229
TRAIN_PER_CLASS = 1000
TEST_PER_CLASS = 200


def choose_balanced(images: LabelledImages, n_per_class: int, rng: np.random.Generator) -> LabelledImages:
    """Choose n_per_class images of every class without replacement, in the order they have in `images`.

    Raises
    ------
    DataError
        Where a class has fewer images.

    """
    chosen = []
    for label in np.unique(images.labels):
        candidates = np.flatnonzero(images.labels == label)
        if len(candidates) < n_per_class:
            raise DataError(f"class {label} must have at least {n_per_class} images, got {len(candidates)}")
        chosen.append(rng.choice(candidates, n_per_class, replace=False))
    order = np.sort(np.concatenate(chosen))
    return LabelledImages(images.images[order], images.labels[order])


def main(argv: list[str] | None = None) -> int:
    """Write the sample; 0, or 2 for a bad file."""
    parser = argparse.ArgumentParser(prog=PROG, description="Make the committed sample of MNIST from its idx files.")
    parser.add_argument("folder", type=Path, help="folder of the four idx files, gzipped or not")
    parser.add_argument("--out", type=Path, default=SAMPLE, metavar="FILE", help="where to write the sample")
    args = parser.parse_args(argv)
    try:
        check_writable(args.out)
    except ValueError as error:
        parser.error(f"argument --out: {error}")
    rng = np.random.default_rng(SEED)
    try:
        data = load_dataset(args.folder)
        train = choose_balanced(data.train, TRAIN_PER_CLASS, rng)
        test = choose_balanced(data.test, TEST_PER_CLASS, rng)
    except DataError as error:
        print(f"{PROG}: error: {error}", file=sys.stderr)
        return 2
    archive = io.BytesIO()
    np.savez_compressed(
        archive,
        train_images=train.images,
        train_labels=train.labels,
        test_images=test.images,
        test_labels=test.labels,
    )
    write_file(args.out, archive.getvalue())
    print(f"{args.out}: {len(train)} training and {len(test)} test images, {args.out.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
