"""Draw four masks with the same p and different shared axes, side by side.

python examples/masks.py [--p P] [--seed N] [--plot FILE]
"""

import argparse
import sys
from collections.abc import Sequence

import cdropout as cd
from cdropout.command import run_command
from digit_network import HERE, add_option, new_figure, parse_image, parse_natural, parse_p, save_figure

PROG = "masks.py"
PANELS = (
    ("every element for itself", (24, 24), ()),
    ("columns: shared_axes=0", (24, 24), 0),
    ("rows: shared_axes=1", (24, 24), 1),
    ("channels: shared_axes=(2, 3)", (4, 4, 8, 8), (2, 3)),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the masks and return the exit status."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__.splitlines()[0])
    add_option(parser, "p", parse_p, 0.3, "P", "the probability of dropping")
    add_option(parser, "seed", parse_natural, 5, "N", "of the masks")
    parser.add_argument(
        "--plot",
        type=parse_image,
        metavar="FILE",
        default=str(HERE / "masks.png"),
        help="PNG, PDF or SVG (default: examples/masks.png)",
    )
    arguments = parser.parse_args(argv)
    figure = new_figure(12, 3.6)
    for ax, (title, shape, shared_axes) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        cd.draw_mask(shape, arguments.p, rng=arguments.seed, shared_axes=shared_axes).plot(ax)
        ax.set_title(title, fontsize="medium")
    save_figure(figure, arguments.plot)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
