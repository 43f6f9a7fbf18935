"""Metrics of samples against an exact target, each with its standard error and its floor."""
