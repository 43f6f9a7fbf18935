"""``scoresde evaluate``: loss, likelihood and sample quality of checkpoints.

Measures are computed in batches, each a function of the weights and its number. Finished batches are files, so a killed
command repeats none, and several processes share them, as in ``scoresde likelihood`` (``measure``; ``measures`` has all
of them). ``checkpoints`` chooses the checkpoints, ``plan`` their measures; ``rows`` makes the rows.
"""
