"""Linear operators: what is measured of an event."""
