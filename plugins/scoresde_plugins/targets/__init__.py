"""Exact targets: distributions whose samples, density, score and moments are known at every noise level.

``gaussian`` has any covariance, ``mixture2d`` places a Gaussian mixture in the plane, ``mfa`` reads a mixture of
factor analysers from a file, ``mnist_mfa`` and ``cifar10_mfa`` are those fitted to MNIST and CIFAR-10, and
``empirical`` is a data set itself. docs/targets.md has the formulas.
"""
