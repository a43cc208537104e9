"""Spleeter for unisep: one U-Net a stem on magnitudes, and masks by the ratio of their squares.

Importing this package loads no torch. What other packages may build on: `unisep_spleeter.model.UNet`, and
`unisep_spleeter.tensor_bundle.read_bundle`, which reads checkpoints of TensorFlow without it.
"""
