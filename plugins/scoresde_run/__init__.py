"""Models, data, training and results: what turns components into a trained network, samples and rows."""
