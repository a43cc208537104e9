"""Open-Unmix for unisep: one network a source, and a multichannel Wiener filter over all of them.

Importing this package loads no torch. What other packages may build on:
`unisep_openunmix.model.OpenUnmix`, `unisep_openunmix.wiener.wiener`, `unisep_openunmix.checkpoints`.
"""
