"""scoresde: score-based generative models through SDEs, as plugins, measured against exact truth.

The names that a user needs, imported on first use, so that ``import scoresde`` is cheap.

>>> import scoresde
>>> sde = scoresde.create("sdes", "vp[beta_max=20]")
>>> sampler = scoresde.create("samplers", "pc[predictor=reverse_diffusion,corrector=langevin,steps=100]")
>>> model = scoresde.ExactScore(scoresde.create("targets", "mixture2d"), sde)
>>> scoresde.sample(model, sampler, n=64, seed=0).x.shape
torch.Size([64, 2])
"""

from scoresde_core import lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__)
