"""Estimators of scikit-learn's kind: multilayer perceptrons with dropout for tables of data, on the CPU.

    from cdropout.sklearn import DropoutMLPClassifier
    classifier = DropoutMLPClassifier((256, 256), dropout=0.5).fit(X, y)

Needs scikit-learn 1.6 or later (`pip install "cdropout[sklearn]"`); `import cdropout` does not import it.
"""

from cdropout.optional import require

require("sklearn", extra="sklearn", purpose="cdropout.sklearn")

from cdropout.sklearn.classifier import ClassUncertainty, DropoutMLPClassifier  # noqa: E402
from cdropout.sklearn.regressor import DropoutMLPRegressor  # noqa: E402

__all__ = ["ClassUncertainty", "DropoutMLPClassifier", "DropoutMLPRegressor"]
