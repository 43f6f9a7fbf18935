"""Song, Durkan, Murray, Ermon: Maximum likelihood training of score-based diffusion models. NeurIPS 2021,
arXiv:2101.09258.
"""
