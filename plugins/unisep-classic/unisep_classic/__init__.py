"""Separation without trained weights: what was usual before there were any, and a baseline for what has them."""
