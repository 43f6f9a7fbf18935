"""The commands of the bundled components: ``evaluate``, ``likelihood``, ``encode`` and others."""
