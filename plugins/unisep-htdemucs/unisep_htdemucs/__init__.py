"""HT Demucs for unisep: the four (and six) fixed stems.

Importing this package loads no torch. What other packages may build on:
`unisep_htdemucs.config.HTDemucsConfig`, `unisep_htdemucs.model.HTDemucs` and its `Encoded`,
`unisep_htdemucs.spectrogram`, `unisep_htdemucs.checkpoints`.
"""
