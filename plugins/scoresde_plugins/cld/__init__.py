"""Critically damped Langevin diffusion: Dockhorn et al. 2022, arXiv:2112.07068."""
