"""Log-densities of a model: exact, by the probability flow, and the bounds of Song et al. 2021."""
