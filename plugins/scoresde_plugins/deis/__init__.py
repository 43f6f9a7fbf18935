"""DEIS: Zhang & Chen 2022, "Fast Sampling of Diffusion Models with Exponential Integrator", arXiv:2204.13902."""
