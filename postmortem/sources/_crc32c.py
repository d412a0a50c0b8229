"""CRC-32C as TensorFlow masks it, over many records of one length at once.

The polynomial is Castagnoli's, reflected: 0x82F63B78 (RFC 3720, appendix B.4). The mask is that of
tensorflow/core/lib/hash/crc32c.h: rotated right by 15 bits, plus 0xa282ead8.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL, _MASK = 0x82F63B78, 0xA282EAD8


def _table() -> NDArray[np.uint32]:
    """The CRC of each byte alone, uint32[256]."""
    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = np.where(crc & 1, (crc >> 1) ^ np.uint32(_POLYNOMIAL), crc >> 1).astype(np.uint32)
    return crc


_OF_BYTE = _table()
_OF_BYTE_LIST: list[int] = _OF_BYTE.tolist()
_MANY = 64  # records from which on numpy is faster


def masked_crcs(records: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """The masked CRC of each row of `records`, uint8[n, length]: uint32[n]."""
    if records.shape[0] < _MANY:
        return np.array([masked_crc(record.tobytes()) for record in records], np.uint32)
    crc = np.full(records.shape[0], 0xFFFF_FFFF, np.uint32)
    for column in np.ascontiguousarray(records.T):
        crc = _OF_BYTE[(crc ^ column) & 0xFF] ^ (crc >> 8)
    crc = ~crc
    return ((crc >> 15 | crc << 17) + np.uint32(_MASK)).astype(np.uint32)


def masked_crc(data: bytes) -> int:
    """The masked CRC of a few bytes."""
    crc = 0xFFFF_FFFF
    for byte in data:
        crc = _OF_BYTE_LIST[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFF_FFFF
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFF_FFFF
