"""Restoration: processes that move from clean data to an observation y of them (speech enhancement, images)."""
