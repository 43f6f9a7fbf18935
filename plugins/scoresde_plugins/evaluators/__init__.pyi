"""Where the names are from; :mod:`scoresde_core.lazy` and type checkers read this file."""

from scoresde_run import EventSet as EventSet
from scoresde_run import Extraction as Extraction
from .comparison import Origin as Origin
from .comparison import SetComparison as SetComparison
from .feature_metric import FeatureMetric as FeatureMetric
from .feature_metric import TwoSetMetric as TwoSetMetric
from .feature_metric import draws as draws
from .feature_metric import features as features
from .feature_metric import pooled as pooled
from .feature_metric import samples as samples
