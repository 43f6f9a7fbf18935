"""Result rows, what they depend on, and the certainty of their numbers."""
