"""Controllable generation (Song et al. 2021, arXiv:2011.13456, Section 5 and Appendix I)."""
