"""Feature extractors: the events themselves, small classifiers, and the published networks."""
