"""The bundled suites of ``scoresde-bench``. Data alone; see docs/bench.md."""
