"""The data, the network, its training and its scores. Modules import each other relatively, as programs in three
folders import the package: as `digits`, as `mnist.digits` and as `examples.mnist.digits`.
"""
