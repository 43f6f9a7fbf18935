"""Few evaluations: tuned times, and a start by an exact score."""
