"""Training examples, mixed on the fly."""
