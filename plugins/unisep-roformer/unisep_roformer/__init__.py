"""Band-Split RoFormer and Mel-Band RoFormer for unisep: the community's stem and vocal models.

Importing this package loads no torch. What other packages may build on:
`unisep_roformer.config.RoformerConfig`, `unisep_roformer.model.Roformer`, `unisep_roformer.checkpoints`, and for other models
in the same two files `unisep_roformer.described` and `unisep_roformer.backend.CheckpointBackend`.
"""
