"""The axes of a sweep, its suites, and its cells."""
