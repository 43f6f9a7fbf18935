"""SDEdit (Meng et al. 2022, arXiv:2108.01073): sampling that starts from noised events in place of the prior.

    x_t0 = alpha(t0) x + sigma(t0) eps,    then the reverse process from t0 to the data

A small t0 keeps the event, a large one keeps only its coarse features; t0 = t_max is the prior in all but alpha x.
"""

from torch import Tensor
from scoresde_core import Noise, ScoreModel, UsageError


def start_from(model: ScoreModel, x: Tensor, t: float, seed: int = 0) -> tuple[ScoreModel, Tensor]:
    """The model of the process until ``t``, and events ``x`` (n, *shape) noised to it, as ``latent`` of ``sample``.

    The noise is that of the prior in a run with this ``seed``. ``UsageError`` if t is outside of the process, and for
    processes whose states are more than events.
    """
    sde = model.sde
    if not sde.t_min < t <= sde.t_max:
        raise UsageError(f"sampling starts at a time above {sde.t_min:g} and at most {sde.t_max:g}, got {t:g}")
    if sde.form not in ("scalar", "diagonal"):
        form = f"{type(sde).__name__} has the form {sde.form}"
        raise UsageError(f"{form}: only one or one an entry can start from events")
    frame, level = sde.frame, sde.level_at(t, x)
    c = frame.lift(x) if frame else x
    noise = Noise(seed, tuple(x.shape[1:]), len(x), device=x.device, dtype=x.dtype).draw("prior", "prior")
    c = (level.alpha * c + level.sigma * noise).to(x.dtype)
    return model.part(sde=sde.until(t)), (frame.leave(c, t) if frame else c)
