"""The bundled suites of ``scoresde-bench``. Only data; see docs/bench.md."""
