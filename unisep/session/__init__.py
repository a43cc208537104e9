"""The state of a Separator between calls: the model pool, prepared requests, composed results."""
