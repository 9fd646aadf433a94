"""Feature caching: a schedule says when a feature is reused, a predictor says what stands in for it."""
