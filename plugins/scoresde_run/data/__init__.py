"""Batches of a data set, and the scale of its values."""
