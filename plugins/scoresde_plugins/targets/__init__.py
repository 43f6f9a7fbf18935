"""Exact targets: distributions whose samples, density, score and moments are known at every noise level.

``gaussian`` has any covariance, ``mixture2d`` lays a Gaussian mixture out in the plane, ``mfa`` reads a mixture of
factor analysers from a file, and ``mnist_mfa`` is the one that was fitted to MNIST. docs/targets.md has the formulas.
"""
