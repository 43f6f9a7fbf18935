"""Posterior sampling: published methods, and the exact posterior that they are judged by."""
