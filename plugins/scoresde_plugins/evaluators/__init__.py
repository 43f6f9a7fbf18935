"""Metrics of samples against an exact target or a data set, each with its standard error and its floor.

This module exports what the author of a metric needs; names are imported on first use.

=====================  =================================================================================================
`SetComparison`        base class of metrics that compare two sets of events: define ``name`` and ``measure``
`FeatureMetric`        base class of metrics of features: define ``word``, ``fewest`` and ``judge``
`TwoSetMetric`         base class of metrics that compare two sets of features: define ``word``, ``fewest``, ``compare``
`Extraction`           how events become features
`EventSet`             events whose features are read; made by `samples`, `draws` and `Origin`
`samples`              the samples as an `EventSet`
`draws`                exact draws of a target as an `EventSet`
`Origin`               a split of a data set: all or some of its events as an `EventSet`, or as a `Reference`
`features`             the features of an `EventSet`, batch by batch, extracted once
`pooled`               all batches of features in one tensor (n, D)
=====================  =================================================================================================
"""

from importlib import import_module
from typing import Any

_HOME = {
    "comparison": ("Origin", "SetComparison"),
    "feature_metric": (
        "EventSet",
        "Extraction",
        "FeatureMetric",
        "TwoSetMetric",
        "draws",
        "features",
        "pooled",
        "samples",
    ),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
