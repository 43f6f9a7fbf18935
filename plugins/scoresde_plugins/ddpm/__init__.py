"""Ho, Jain, Abbeel: Denoising diffusion probabilistic models. NeurIPS 2020, arXiv:2006.11239.
Song, Meng, Ermon: Denoising diffusion implicit models. ICLR 2021, arXiv:2010.02502.
"""
