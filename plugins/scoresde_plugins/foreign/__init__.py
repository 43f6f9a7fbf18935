"""Samplers of other libraries around our score models: contestants, judged by the same truth."""
