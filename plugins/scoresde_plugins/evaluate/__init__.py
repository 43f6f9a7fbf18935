"""``scoresde evaluate``: loss, likelihood and sample quality of checkpoints.

Measures (``model_measures`` of a model alone, ``sample_measures`` of its samples) are computed in batches, each a
function of the weights and its number. Finished batches are files (``parts``), so a killed command repeats none, and
several processes share them (``batches``), as in ``scoresde likelihood``. ``checkpoints`` chooses the checkpoints,
``plan`` their measures; ``rows`` makes the rows, and what is printed of them.
"""
