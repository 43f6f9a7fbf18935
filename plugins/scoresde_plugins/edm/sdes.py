"""The process of EDM (Karras et al. 2022, arXiv:2206.00364, Table 1): sigma is the time, up to 80."""

import attrs
from attrs.validators import and_, gt, lt
from scoresde_core import param
from ..score_flow.sdes import LinearVESDE
from ..song2021.sdes import IN_RANGE, T_MIN_HELP


@attrs.frozen
class EDMSDE(LinearVESDE):
    """alpha = 1, sigma = sigma_max t; published: from 80 down to 0.002, on the grid ``karras``.

    The paper's network has the parameterisation ``edm`` and the label ``log_ratio``.
    """

    sigma_max: float = param(80.0, "noise scale at t = 1", IN_RANGE)
    t_min: float = param(2.5e-5, T_MIN_HELP, and_(gt(0), lt(1)))
