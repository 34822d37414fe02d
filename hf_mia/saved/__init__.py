"""Attacks on what a model said elsewhere: arrays and files of posteriors, no model at hand."""
