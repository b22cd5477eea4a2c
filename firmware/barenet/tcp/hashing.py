"""The keyed hash behind numbers that nobody else may predict."""

try:
    from hashlib import sha256
except ImportError:
    from uhashlib import sha256


def keyed(secret, local, remote, more=b"", at=0):
    """Returns 32 bits, from byte `at` on, of a hash over secret and the addresses (RFC 6528 section 3).

    secret: bytes; local, remote: (address of 4 bytes, port); more: bytes.
    """
    text = secret + local[0] + remote[0] + local[1].to_bytes(2, "big") + remote[1].to_bytes(2, "big") + more
    return int.from_bytes(sha256(text).digest()[at : at + 4], "big")
