"""Datasets: where the images are, as uint8 (N, C, H, W), with a train and a test split."""
