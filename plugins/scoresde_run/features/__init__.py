"""Features of events: extractors, and what they read."""
