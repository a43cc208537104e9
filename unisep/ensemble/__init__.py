"""Ensembles: a backend made of backends, whose stems are weighted means of what its members give.

Written as a small TOML file, `Separator("ensemble@my.toml")`; in Python, `Separator(Ensemble(...))`; or, for authors
of plugins whose models come in bags, as an `EnsembleBackend` of loaded backends. This is no plugin since members are
loaded as a Separator loads any backend: with its plugins, its word on downloads, its verified weights and its cache.
"""
