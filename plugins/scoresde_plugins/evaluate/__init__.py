"""``scoresde evaluate``: ``checkpoints`` are chosen, a ``plan`` has ``measures``, whose batches make ``rows``."""
