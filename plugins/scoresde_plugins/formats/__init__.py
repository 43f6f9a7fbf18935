"""Weights of other libraries for our networks: their files, names and schedules."""
