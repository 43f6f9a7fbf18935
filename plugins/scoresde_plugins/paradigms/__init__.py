"""Samplers that are parallel in time."""
