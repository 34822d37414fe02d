"""The networks that recipes train, as `PreTrainedModel`s that save and reload exactly; importing one registers it."""
