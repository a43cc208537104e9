"""Ensembles: a backend made of backends, whose stems are weighted means of what its members give.

Written as a small TOML file, `Separator("ensemble@my.toml")`; in Python, `Separator(Ensemble(...))`; or, for authors
of plugins whose models come in bags, as an `EnsembleBackend` of loaded backends.

Why this is a part of unisep and no plugin: a plugin's `load` gets a path, a device and a dtype. A member must be
loaded as its Separator loads any backend: with that Separator's plugins, its word on downloads, its verified weights
and its cache, so that a model that is used alone and in an ensemble is loaded once. Only the Separator has those.
The averaging itself is an ordinary `Backend` and asks for nothing but the contract.
"""
