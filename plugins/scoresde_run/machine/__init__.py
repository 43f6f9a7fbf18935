"""The machine: devices, processes, locks and the environment of a run."""
