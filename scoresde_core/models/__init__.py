"""Models: their configuration, what it builds, and the checkpoints that they are stored in."""
