"""A program that fits a classifier with a checkpoint, for test_sklearn_fits.py.

    python sklearn_fit.py CHECKPOINT RESULT [--batch-norm]

writes the weights to RESULT when the fit has ended.
"""

import sys

import numpy as np

from cdropout.sklearn import DropoutMLPClassifier, fitting

OPTIONS = {
    "hidden_layer_sizes": (64, 64),
    "dropout": 0.3,
    "input_dropout": 0.1,
    "max_iter": 3,
    "random_state": 5,
    "batch_size": 32,
    "early_stopping": True,
}


def data():
    """Return inputs and classes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1000, 20)).astype(np.float32)
    return x, (x[:, 0] * x[:, 1] > 0).astype(int) + (x[:, 2] > 0)


if __name__ == "__main__":
    fitting.CHECKPOINT_SECONDS = 0.0  # after every step
    batch_norm = "--batch-norm" in sys.argv
    fitted = DropoutMLPClassifier(**OPTIONS, batch_norm=batch_norm, checkpoint=sys.argv[1]).fit(*data())
    np.savez(sys.argv[2], *fitted.coefs_, *fitted.intercepts_, fitted.loss_curve_, fitted.validation_scores_)
