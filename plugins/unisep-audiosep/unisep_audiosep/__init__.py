"""AudioSep for unisep: a residual U-Net that isolates what a query vector describes.

Importing this package loads no torch.
"""
