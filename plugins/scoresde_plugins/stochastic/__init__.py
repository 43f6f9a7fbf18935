"""Stochastic samplers for few evaluations: SA-Solver (arXiv:2309.05019), SEEDS (2305.14267), ER-SDE (2309.06169)."""
