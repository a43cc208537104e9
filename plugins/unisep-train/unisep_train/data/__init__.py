"""Sounds: data sets, labels, and the training store."""
