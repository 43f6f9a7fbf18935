"""Exact targets: distributions whose samples, density, score and moments are known at every noise level.

``gaussian`` has any covariance, ``mixture2d`` places a Gaussian mixture in the plane, ``mfa`` reads a mixture of
factor analysers from a file, and ``mnist_mfa`` is the one fitted to MNIST. docs/targets.md has the formulas.
"""
