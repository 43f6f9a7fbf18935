"""The metrics of docs/plugins.md as a stranger's module with rows, and the text of others that tests need."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "plugins.md"
METRICS = {"brightness": "Brightness", "feature_shift": "FeatureShift", "feature_size": "FeatureSize"}
ASKED = ("brightness", "feature_shift[features=identity]", "feature_size")


def metrics_of_the_page(folder: Path) -> Path:
    """Rows of the page's metrics, beside their module in ``folder``."""
    (code,) = re.findall(r"^```python\n(# my_metrics.py\n.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return rows_of(folder, "my_metrics", METRICS, code)


def rows_of(folder: Path, module: str, evaluators: dict[str, str], code: str) -> Path:
    """Rows of evaluators, name -> class, beside their module in ``folder``."""
    (folder / f"{module}.py").write_text(code)
    rows = [f"  {name}:\n    target: {module}:{cls}\n    summary: under test\n" for name, cls in evaluators.items()]
    path = folder / f"{module}.yaml"
    path.write_text("api: 1\nevaluators:\n" + "".join(rows))
    return path
