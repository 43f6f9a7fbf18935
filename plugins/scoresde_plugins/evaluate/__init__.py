"""``scoresde evaluate``: loss, likelihood and sample quality of checkpoints.

What is measured (``measures``: of a model alone; ``judgement``: of its samples) comes in batches that are functions of
the weights and of their number. Finished ones are files (``parts``), so a command that was killed repeats none, and
several processes share them out (``batches``); those of ``scoresde likelihood`` are the same. ``choice`` says which
checkpoints, ``plan`` what of them, ``evaluation`` turns one into a row, ``command`` is the command line.
"""
