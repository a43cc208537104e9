"""The model zoo: cards, downloads, verification, safe checkpoints."""
