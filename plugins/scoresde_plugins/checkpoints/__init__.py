"""Trained models that ship, one folder each, and the command that makes such folders."""
