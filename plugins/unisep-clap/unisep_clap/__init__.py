"""Query encoders for unisep: `clap` (any LAION CLAP) and `clap-mini` (embedded, works offline)."""
