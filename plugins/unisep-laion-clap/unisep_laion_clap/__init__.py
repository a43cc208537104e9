"""LAION's CLAP checkpoints for unisep, through the laion-clap package.

Importing this package loads neither torch nor laion-clap.
"""
