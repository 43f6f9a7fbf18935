"""EDM: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", arXiv:2206.00364."""
