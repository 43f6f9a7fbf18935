"""A thousand damaged folders of diffusers: ``PYTHONPATH=tests python tests/long/damaged_folders.py [COUNT]``."""

import resource
import sys
import tempfile
import time
from pathlib import Path

import damaged

count, started = int(sys.argv[1]) if len(sys.argv) > 1 else 1000, time.time()
with tempfile.TemporaryDirectory() as place:
    whole = damaged.made(Path(place) / "whole")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = [each for seed in range(count) if (each := damaged.wrong(whole, Path(place), seed))]
print("\n".join(found))
more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print(f"{count} folders in {time.time() - started:.0f} s: {len(found)} wrong, memory + {more:.0f} MiB")
sys.exit(bool(found))
