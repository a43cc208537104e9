"""A template for unisep plugins: a backend with two fixed outputs."""
