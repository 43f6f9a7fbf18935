"""A nonlinear process: the example of the widest contract."""
