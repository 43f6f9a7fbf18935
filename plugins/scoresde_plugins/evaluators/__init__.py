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

from scoresde_core import lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__)
