"""``scoresde evaluate``: loss, likelihood and sample quality of checkpoints.

What is measured comes in batches that are functions of the weights and of their number (``measures``). Finished ones
are files (``parts``), so a command that was killed repeats none, and several processes share them out. ``choice`` says
which checkpoints, ``evaluation`` turns one of them into a row of results, ``command`` is the command line.
"""
