"""Song, Ermon: Generative modeling by estimating gradients of the data distribution. NeurIPS 2019, arXiv:1907.05600.
Song, Ermon: Improved techniques for training score-based generative models. NeurIPS 2020, arXiv:2006.09011.
"""
