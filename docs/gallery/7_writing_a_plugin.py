"""Writing a plugin.

A new forward process is a class with `alpha` and `sigma`; a file of rows gives it a name; then every command knows it.
This page writes both files, checks the process with the suite that ours must pass, and ranks it.
"""

from pathlib import Path

from scoresde_bench.cli import main as scoresde_bench
from scoresde_run.commands.shell import main as scoresde

# ## Two files

Path("my_sdes.py").write_text('''
import attrs
import torch
from scoresde import SDE, param

@attrs.frozen
class Power(SDE):
    """alpha = 1 - 0.99 t^power, sigma = t^power."""

    power: float = param(1.0, "above 1 stays near the data for longer", attrs.validators.gt(0))

    def alpha(self, t):
        return 1 - 0.99 * t**self.power

    def sigma(self, t):
        return t**self.power
''')
Path("my_rows.yaml").write_text("""
api: 1
sdes:
  power: {target: "my_sdes:Power", summary: straight lines in a power of t}
""")

# ## Check it
#
# In a shell: `scoresde check sdes power --registry my_rows.yaml`.

assert scoresde(["check", "sdes", "power", "--registry", "my_rows.yaml"]) == 0

# ## Rank it
#
# Beside VP, on points in the plane. `°` marks what is as good as exact samples.

words = "--registry my_rows.yaml --target mixture2d --sde vp power power[power=2] --predictor dpmpp_2m --steps 5,10"
assert scoresde_bench([*words.split(), "--evaluator", "energy_distance", "mode_weights"]) == 0

# To give it to others, make it a package: [Write a plugin](../plugins.md).
