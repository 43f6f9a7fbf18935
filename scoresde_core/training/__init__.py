"""Training: batches, the loop, and the folder of a run that survives any kill."""
