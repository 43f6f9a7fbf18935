"""DPM-Solver: Lu et al. 2022, "DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling in Around 10
Steps", arXiv:2206.00927; and DPM-Solver++, Lu et al. 2022, arXiv:2211.01095.
"""
