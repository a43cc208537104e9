"""DeepFilterNet3 for unisep: speech out of noise, offline or frame by frame.

Importing this package loads no torch. What other packages may build on: `unisep_deepfilter.enhancer.FrameEnhancer`,
`unisep_deepfilter.network.DeepFilterNet`, `unisep_deepfilter.checkpoints.read_network`.
"""
