"""Is the game itself fair? Blind baselines, near-duplicates, shared n-grams, dates."""
