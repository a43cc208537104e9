"""torchaudio's separators for unisep: Hybrid Demucs and Conv-TasNet.

Importing this package loads neither torch nor torchaudio.
"""
