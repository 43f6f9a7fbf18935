"""Runge-Kutta steps, the probability flow, divergence estimators and encoding."""
