"""Adaptive steps: Jolicoeur-Martineau et al. 2021, "Gotta Go Fast When Generating Data with Score-Based Models",
arXiv:2105.14080.
"""
