"""How a model is loaded and its records become tensors: one file a kind of model."""
