"""Log densities of a model: by the probability flow ODE, and ScoreFlow's bound (Song et al. 2021)."""
