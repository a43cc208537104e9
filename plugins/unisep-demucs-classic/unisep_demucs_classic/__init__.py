"""Demucs v1 to v3: models of the demucs package and bags of them, Demucs v1 and v2 and the music Conv-TasNet on their own."""
