"""Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole: Score-based generative modeling through stochastic differential
equations. ICLR 2021, arXiv:2011.13456.
"""
