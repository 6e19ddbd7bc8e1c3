"""Dropout from this library for Keras 3 on its NumPy, PyTorch and JAX backends.

    import cdropout.keras
    cdropout.keras.enable()      # disable() undoes it

From then on these draw their masks and their noise with this library, without a change of the model: `Dropout`,
`SpatialDropout1D` to `3D`, `AlphaDropout`, `GaussianDropout`, `GaussianNoise`, the attention layers, the recurrent
layers, and `keras.random.dropout`. `report` lists what a model draws, and from which generator.

Needs keras, and the package of its backend (environment variable KERAS_BACKEND); `import cdropout` imports neither.
"""

from cdropout.keras.sites import Site, report
from cdropout.keras.switch import disable, dropout, enable, is_enabled

__all__ = ["Site", "disable", "dropout", "enable", "is_enabled", "report"]
