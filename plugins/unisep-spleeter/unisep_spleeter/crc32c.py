"""CRC-32C (Castagnoli), with which checkpoints of TensorFlow guard their blocks and tensors, in NumPy.

A byte takes the register to `table[(register ^ byte) & 255] ^ (register >> 8)`, which is linear in register and byte. So
long data are cut into lanes that go side by side, each from zero; then the register is led through lane after lane, as
what it would become over zeros, xor what the lane became.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78  # reflected
_ONES = 0xFFFFFFFF
_LANE_BYTES = 2048
_SHORT_BYTES = 4 * _LANE_BYTES  # below, lanes are not worth it

UInt32 = NDArray[np.uint32]


def crc32c(data: bytes | NDArray[np.uint8]) -> int:
    """Return the CRC-32C of the data.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    octets = np.frombuffer(data, np.uint8)
    n_lanes = len(octets) // _LANE_BYTES if len(octets) >= _SHORT_BYTES else 0
    register = _through_lanes(_ONES, octets[: n_lanes * _LANE_BYTES]) if n_lanes else _ONES
    table = _table().tolist()
    for octet in octets[n_lanes * _LANE_BYTES :].tolist():
        register = table[(register ^ octet) & 0xFF] ^ (register >> 8)
    return register ^ _ONES


def unmasked(stored: int) -> int:
    """Return the CRC that a table file or a checkpoint stores rotated by 15 bits, plus a constant.

    >>> hex(unmasked(0xC78AB0E5))
    '0xe3069283'
    """
    rotated = (stored - 0xA282EAD8) & _ONES
    return ((rotated >> 17) | (rotated << 15)) & _ONES


@cache
def _table() -> UInt32:
    register = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        register = np.where(register & 1, (register >> 1) ^ np.uint32(_POLYNOMIAL), register >> 1)
    return register


def _through_lanes(register: int, octets: NDArray[np.uint8]) -> int:
    first, second, third, fourth = _over_zeros()
    for lane in _from_zero(octets.reshape(-1, _LANE_BYTES).T).tolist():
        register = (
            first[register & 0xFF]
            ^ second[register >> 8 & 0xFF]
            ^ third[register >> 16 & 0xFF]
            ^ fourth[register >> 24]
        ) ^ lane
    return register


@cache
def _over_zeros() -> list[list[int]]:
    """Return what a register becomes over the zeros of a lane, as a table for each of its bytes."""
    registers = (np.arange(256, dtype=np.uint32) << np.array([[0], [8], [16], [24]], np.uint32)).ravel()
    for _ in range(_LANE_BYTES):
        registers = _table()[registers & 0xFF] ^ (registers >> 8)
    tables: list[list[int]] = registers.reshape(4, 256).tolist()
    return tables


def _from_zero(columns: NDArray[np.uint8]) -> UInt32:
    """Return what a register of zero becomes over each column."""
    table, registers = _table(), np.zeros(columns.shape[1], np.uint32)
    for row in columns:
        registers = table[(registers ^ row) & 0xFF] ^ (registers >> 8)
    return registers
