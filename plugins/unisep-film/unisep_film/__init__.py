"""FiLM HT Demucs: isolates what a query vector describes. See `unisep_film.model`."""
