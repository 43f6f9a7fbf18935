"""The metrics of docs/plugins.md as a stranger's module or distribution, and evaluators of a test's own as rows."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "plugins.md"
METRICS = {"brightness": "Brightness", "feature_shift": "FeatureShift", "feature_size": "FeatureSize"}
ASKED = ("brightness", "feature_shift[features=identity]", "feature_size")
DIST = "their-metrics"


def metrics_of_the_page(folder: Path) -> Path:
    """Rows of the page's metrics, beside their module in ``folder``."""
    return rows_of(folder, "my_metrics", METRICS, _code())


def distribution_of_the_page(folder: Path) -> None:
    """The page's metrics as a distribution that is installed in ``folder``."""
    package, info = folder / "their_metrics", folder / "their_metrics-1.2.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").touch()
    (package / "metrics.py").write_text(_code())
    (package / "registry.yaml").write_text(_rows("their_metrics.metrics", METRICS))
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {DIST}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[scoresde.plugins]\ntheirs = their_metrics\n")


def rows_of(folder: Path, module: str, evaluators: dict[str, str], code: str) -> Path:
    """Rows of evaluators, name -> class, beside their module in ``folder``."""
    (folder / f"{module}.py").write_text(code)
    path = folder / f"{module}.yaml"
    path.write_text(_rows(module, evaluators))
    return path


def _code() -> str:
    (code,) = re.findall(r"^```python\n(# my_metrics.py\n.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return code


def _rows(module: str, evaluators: dict[str, str]) -> str:
    rows = [f"  {name}:\n    target: {module}:{cls}\n    summary: under test\n" for name, cls in evaluators.items()]
    return "api: 1\nevaluators:\n" + "".join(rows)
