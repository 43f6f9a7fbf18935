"""``scoresde evaluate``: loss, likelihood and sample quality of checkpoints.

Measures are computed in batches, each a function of the weights and its number (``measure``; ``measures`` has all of
them). Finished batches are files, so a killed command repeats none, and several processes share them (``batches``), as
in ``scoresde likelihood``. ``checkpoints`` chooses the checkpoints, ``plan`` their measures; ``rows`` makes the rows.
"""
