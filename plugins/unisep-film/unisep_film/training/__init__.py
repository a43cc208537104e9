"""How the embedded query model was trained: data, model start, losses and the loop."""
