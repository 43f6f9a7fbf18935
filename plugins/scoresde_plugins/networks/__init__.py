"""Networks: the architectures of the papers, and small ones for points in the plane."""
