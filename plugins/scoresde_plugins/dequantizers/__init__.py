"""From integers to densities."""
