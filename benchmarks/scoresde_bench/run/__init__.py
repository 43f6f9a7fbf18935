"""Runs the cells of a sweep: here, in worker processes or on Slurm."""
