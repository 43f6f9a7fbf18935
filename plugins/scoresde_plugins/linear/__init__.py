"""Linear processes with more than one coefficient: one an entry, and matrices of coupled variables."""
