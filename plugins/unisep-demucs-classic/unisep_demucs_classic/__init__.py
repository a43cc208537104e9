"""Demucs v3 through the demucs package: its time-domain and hybrid models, and the bags made of them."""
