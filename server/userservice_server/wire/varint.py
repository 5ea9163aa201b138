"""Protobuf varints: whole numbers in base 128, low bits first; the high bit of a byte is set if more bytes follow."""

_MORE = 0x80
_BITS = 0x7F
_MOST_BYTES = 10  # the length of the longest varint, of 64 bits


def varint(value: int) -> bytes:
    """Encodes a whole number that is not negative."""
    encoded = bytearray()
    while value > _BITS:
        encoded.append(value & _BITS | _MORE)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Returns the number at ``position`` and the position after the number. The data must be valid."""
    value, shift = data[position], 7
    position += 1
    if value < _MORE:
        return value, position
    value &= _BITS
    while True:
        byte = data[position]
        position += 1
        value |= (byte & _BITS) << shift
        if byte < _MORE:
            return value, position
        shift += 7


def try_read_varint(data: bytes, position: int) -> tuple[int, int]:
    """As ``read_varint``, for data that may be damaged: returns 0 and ``position`` if there is no varint."""
    for index, byte in enumerate(data[position : position + _MOST_BYTES]):
        if byte < _MORE:
            return read_varint(data, position)[0], position + index + 1
    return 0, position
