"""Posterior sampling: published methods, each a small file, and the exact posteriors that they are judged by."""
