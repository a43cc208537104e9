"""Which checkpoints make which released model, and what their files must hash to."""

from __future__ import annotations

from unisep_htdemucs.bags import Bag

# How much each model of `mdx` counts for drums, bass, other and vocals.
_BY_STEM = ((1.0, 1.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (1.0, 0.0, 1.0, 1.0), (1.0, 0.0, 1.0, 1.0))
_SEGMENT_SECONDS = 44.0

# The definitions of demucs 4.1.0. It lists the models of the last two twice each; once gives the same mean.
RELEASED: dict[str, Bag] = {
    "hdemucs_mmi": Bag(("75fc33f5",), (), _SEGMENT_SECONDS),
    "mdx": Bag(("0d19c1c6", "7ecf8ec1", "c511e2ab", "7d865c68"), _BY_STEM, _SEGMENT_SECONDS),
    "mdx_extra": Bag(("e51eebcc", "a1d90b5c", "5d2d6c55", "cfa93e08"), (), _SEGMENT_SECONDS),
    "repro_mdx_a": Bag(("9a6b4851", "1ef250f1", "fa0cb7f9", "902315c2"), (), _SEGMENT_SECONDS),
    "repro_mdx_a_hybrid_only": Bag(("fa0cb7f9", "902315c2"), (), _SEGMENT_SECONDS),
    "repro_mdx_a_time_only": Bag(("9a6b4851", "1ef250f1"), (), _SEGMENT_SECONDS),
}

# sha256 over the whole file, as the registry of demucs-infer 4.4.0 publishes them; demucs's own names carry
# the first eight digits of each.
PUBLISHED_SHA256: dict[str, str] = {
    "0d19c1c6-0f06f20e.th": "0f06f20ed6ddc8058fa72ccc4845f3a88916eff7d007b623924193de217bbcf4",
    "5d2d6c55-db83574e.th": "db83574e05b2308f76e2764819da673f2d16d437b9e619f5fcb72f275fc0e24f",
    "7d865c68-3d5dd56b.th": "3d5dd56b5bc986f136dff98655ded22b2b033f465ccec7a28640a6b15fd71ed6",
    "7ecf8ec1-70f50cc9.th": "70f50cc947d08f32e6dd8e2b687d398fa5ef9e51d1bd7600e32205d1f44be6b9",
    "a1d90b5c-ae9d2452.th": "ae9d245283bf24b552913ee233a1101dcd0aeaed59b1c0a2da0e1f6eda15101b",
    "c511e2ab-fe698775.th": "fe6987756a7087d339bf63b19bb481b12cea02d3bc0de7583df7597210209649",
    "cfa93e08-61801ae1.th": "61801ae1567d606c97a9c3469e943ae306d0a873eeb60d623ae7cfc7042b3f68",
    "e51eebcc-c1b80bdd.th": "c1b80bdd6de58274abf359e66822a76f49ce2b9f086fc5dc917ac14598e6bebf",
    "1ef250f1-592467ce.th": "592467cef0b0d878bc66fe38c8456353ff435334331baab08e1dc82beeefd596",
    "902315c2-b39ce9c9.th": "b39ce9c97b5603fbaee99ec59fe1d2db570c77a37356c9c85542d881517c3302",
    "9a6b4851-03af0aa6.th": "03af0aa64af2c4f0795659c265fdead238fab31c064a8a4b5b051c1b22c8ad48",
    "fa0cb7f9-100d8bf4.th": "100d8bf4dc5e228edfd9bb7a2ec44ad9f44d8f0a845964d38ee8c11ea8ca1399",
    "75fc33f5-1941ce65.th": "1941ce654b11df4132b9f4eae408556b4c83fad6fe26b4bc0dbcb36b975befb3",
}
