"""A unisep plugin: the backend `splitter`."""
