"""A plugin for scoresde: its components are declared in the registry.yaml beside this file."""
