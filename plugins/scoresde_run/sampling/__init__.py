"""Sampling under conditions, and checks of the samples."""
