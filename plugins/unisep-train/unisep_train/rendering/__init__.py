"""Songs and clips made by rule and played with a soundfont."""
