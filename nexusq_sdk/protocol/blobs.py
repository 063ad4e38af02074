"""Pickled bytes on their way between notebook and worker: signed, never unpickled unless the signature is right.

Whoever has the key can run code on the workers and in the notebooks that share it; nobody else can. Standard library
only.
"""

from __future__ import annotations

import hashlib
import hmac

#: Says what follows: 32 bytes of HMAC-SHA-256 (RFC 2104) over the rest, then the rest.
MAGIC = b"nexusq1\x00"
_DIGEST = hashlib.sha256().digest_size
#: The shortest key that is taken: the digest's own length, as RFC 2104, section 3, advises.
KEY_BYTES = 32


class BadSignature(ValueError):
    """The bytes were signed with another key, were changed, or are none of ours."""


def sign(key: bytes, data: bytes) -> bytes:
    """Give `data` behind its signature."""
    return MAGIC + hmac.digest(key, data, "sha256") + data


def verify(key: bytes, signed: bytes) -> bytes:
    """Give the data back.

    Raises
    ------
    BadSignature
    """
    start = len(MAGIC) + _DIGEST
    if not signed.startswith(MAGIC) or len(signed) < start:
        raise BadSignature("expected signed bytes of NexusQ, got others")
    data = signed[start:]
    if not hmac.compare_digest(signed[len(MAGIC) : start], hmac.digest(key, data, "sha256")):
        raise BadSignature("expected bytes signed with this key (NEXUSQ_SIGNING_KEY), got some signed with another one")
    return data


def blob_id(signed: bytes) -> str:
    """Name bytes by what they are: the same function is stored once."""
    return hashlib.sha256(signed).hexdigest()


def read_key(text: str) -> bytes:
    """Read a key as it stands in a setting: hexadecimal, 64 characters or more.

    Raises
    ------
    ValueError
        Saying how to make one.
    """
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) < KEY_BYTES:
        raise ValueError(
            f"expected a signing key of {2 * KEY_BYTES} hexadecimal characters or more; "
            f'make one with: python -c "import secrets; print(secrets.token_hex({KEY_BYTES}))"'
        )
    return key
