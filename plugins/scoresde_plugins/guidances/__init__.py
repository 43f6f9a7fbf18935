"""Guidance of score models: classifier-free guidance and autoguidance."""
