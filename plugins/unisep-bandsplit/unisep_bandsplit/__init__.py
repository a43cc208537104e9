"""SCNet and Band-Split RNN for unisep: stems of songs, and speech, music and effects of films.

Importing this package loads no torch. What other packages may build on: `unisep_bandsplit.config`,
`unisep_bandsplit.scnet.SCNet`, `unisep_bandsplit.bsrnn.BandSplitRNN`, `unisep_bandsplit.checkpoints`.
"""
