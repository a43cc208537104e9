"""Damaged copies of good bytes: flipped, cut, doubled, mixed, and with sizes that claim the absurd."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

from unisep.files.containers import ogg_checksum

TELLING_INTEGERS = (
    0,
    1,
    2,
    3,
    0x7F,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**44,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
HEADER_BYTES = 200


def damaged(good: bytes, others: Sequence[bytes], draw: random.Random) -> bytes:
    """A copy of `good` after one to four mutations; `others` lend their parts.

    Every other time the checksums of Ogg pages are made right again: else the decoder drops the pages
    and never looks at what is in them.
    """
    data = bytearray(good)
    for _ in range(draw.randint(1, 4)):
        draw.choice(MUTATIONS)(data, others, draw)
    if draw.random() < 0.5:
        mend_ogg(data)
    return bytes(data)


def mend_ogg(data: bytearray) -> None:
    """Nothing; puts the right checksum into every page of an Ogg stream (RFC 3533, section 6)."""
    start = data.find(b"OggS")
    while start >= 0 and start + 27 <= len(data):
        n_lengths = data[start + 26]
        lengths = data[start + 27 : start + 27 + n_lengths]
        stop = start + 27 + n_lengths + sum(lengths)
        data[start + 22 : start + 26] = bytes(4)
        struct.pack_into("<I", data, start + 22, ogg_checksum(data[start:stop]))
        start = data.find(b"OggS", max(start + 4, min(stop, len(data))))


def _place(data: bytearray, draw: random.Random) -> int:
    """An index, in the header as often as not: most of what can go wrong is written there."""
    end = len(data) if draw.random() < 0.5 else min(len(data), HEADER_BYTES)
    return draw.randrange(end) if end else 0


def flip_bits(data: bytearray, others: Sequence[bytes], draw: random.Random) -> None:
    for _ in range(draw.choice((1, 1, 3, 20)) if data else 0):
        data[_place(data, draw)] ^= 1 << draw.randrange(8)


def claim_a_size(data: bytearray, others: Sequence[bytes], draw: random.Random) -> None:
    size = draw.choice("BHIQ")
    value = draw.choice(TELLING_INTEGERS) % 2 ** (8 * struct.calcsize(f"<{size}"))
    packed = struct.pack(f"{draw.choice('<>')}{size}", value)
    at = _place(data, draw)
    at -= at % draw.choice((1, 2, 4))
    data[at : at + len(packed)] = packed


def cut_off(data: bytearray, others: Sequence[bytes], draw: random.Random) -> None:
    del data[_place(data, draw) :]


def leave_out(data: bytearray, others: Sequence[bytes], draw: random.Random) -> None:
    at = _place(data, draw)
    del data[at : at + draw.choice((1, 4, 100, 5000))]


def double(data: bytearray, others: Sequence[bytes], draw: random.Random) -> None:
    at = _place(data, draw)
    data[at:at] = data[at : at + draw.choice((1, 8, 100, 5000))]


def put_in(data: bytearray, others: Sequence[bytes], draw: random.Random) -> None:
    at = _place(data, draw)
    data[at:at] = draw.randbytes(draw.choice((1, 4, 40, 400)))


def overwrite(data: bytearray, others: Sequence[bytes], draw: random.Random) -> None:
    at, n_bytes = _place(data, draw), draw.choice((1, 4, 40, 2000))
    fill = draw.choice((b"\x00", b"\xff", draw.randbytes(1)))
    data[at : at + n_bytes] = fill * len(data[at : at + n_bytes])


def mix_in(data: bytearray, others: Sequence[bytes], draw: random.Random) -> None:
    other = draw.choice(others)
    at = _place(data, draw)
    if draw.random() < 0.5:
        data[at:] = other[at:]
    else:
        data[at:at] = other[: draw.choice((4, 12, 50, len(other)))]


MUTATIONS = (flip_bits, claim_a_size, claim_a_size, cut_off, leave_out, double, put_in, overwrite, mix_in)
