"""Blurring diffusion: Hoogeboom & Salimans 2023, arXiv:2209.05557."""
