"""Configurations, the models that they describe, and checkpoints."""
