"""Where the names of the facade are from; :mod:`scoresde_core.lazy` and type checkers read this file."""

from scoresde_bench.bench import bench as bench
from scoresde_core import *  # noqa: F403
from scoresde_plugins.evaluators.comparison import Comparison as Comparison
from scoresde_run import *  # noqa: F403
from .functions import solve as solve
