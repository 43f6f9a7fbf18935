"""scoresde-bench: which sampler is best, measured against the truth."""
