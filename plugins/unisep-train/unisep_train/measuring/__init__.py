"""How good a model is, and what is written about it."""
