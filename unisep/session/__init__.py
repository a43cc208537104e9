"""What a Separator holds between calls: the model pool, prepared requests, composed results."""
