"""Metrics of samples against an exact target or a data set, each with its standard error and its floor.

What an author of such a metric needs is here; names are imported on first use.

=====================  =================================================================================================
`SetComparison`        base of a metric of two sets of events: give ``name`` and ``measure``
`FeatureMetric`        base of a metric of features: give ``word``, ``fewest`` and ``judge``
`TwoSetMetric`         base of a metric of two sets of features: give ``word``, ``fewest`` and ``compare``
`Extraction`           how events become features
`EventSet`             events whose features are read; made by `samples`, `draws` and `Origin`
`samples`              the samples as an `EventSet`
`draws`                exact draws of a target as an `EventSet`
`Origin`               a split of a data set: all or some of its events as an `EventSet`, or as a `Reference`
`features`             the features of an `EventSet`, batch by batch, extracted once
`pooled`               all batches of these in one tensor (n, D)
=====================  =================================================================================================
"""

from importlib import import_module
from typing import Any

_HOME = {
    "events": ("Origin", "SetComparison"),
    "extraction": ("EventSet", "Extraction", "draws", "features", "pooled", "samples"),
    "feature_metric": ("FeatureMetric", "TwoSetMetric"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
