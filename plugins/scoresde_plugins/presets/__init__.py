"""Presets: the published configurations, and small ones that train in minutes. Data alone; see docs/presets.md."""
