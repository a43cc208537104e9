"""The recipe that made clap-mini: `text` (distil), `render` (extra audio), `audio` (train), `release` (pack)."""
