"""The cryptography of the protocol, by the library `cryptography`: what is derived from what, and for what use.

All keys belong to one session and round, since both are part of each derivation. Masks are the key stream of AES-256 in
counter mode under a whole 256-bit key that is used once.
"""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fedjax_mri.core.errors import UserError, install
from fedjax_mri.secure.faults import Fault, Refused

try:
    from cryptography.exceptions import InvalidSignature, InvalidTag
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError as error:
    raise UserError(f"secure: {error}; {install('secure')}") from None

Entropy = Callable[[int], bytes]  # number of bytes -> so many secret random bytes, such as os.urandom
KEY_BYTES, NONCE_BYTES = 32, 12
CHUNK = 1 << 20  # bytes of key stream at a time, which stay in the processor's cache


class KeyPair(NamedTuple):
    """A secret key of X25519 or Ed25519 and its public key, 32 bytes each."""

    secret: bytes
    public: bytes


def agreement_pair(entropy: Entropy) -> KeyPair:
    """Returns a new key of X25519."""
    return agreement_pair_of(entropy(KEY_BYTES))


def agreement_pair_of(secret: bytes) -> KeyPair:
    """Returns the key of X25519 with this secret half."""
    return KeyPair(secret, X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw())


def signing_pair(entropy: Entropy) -> KeyPair:
    """Returns a new key of Ed25519, by which a client is known in all rounds."""
    secret = entropy(KEY_BYTES)
    return KeyPair(secret, Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw())


def shared_secret(secret: bytes, public: bytes) -> bytes:
    """Returns the secret that two clients share, from one's secret key and the other's public key (X25519).

    Raises Refused on a weak key.
    """
    try:
        return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise Refused(Fault.KEYS, f"no secret can be agreed on with {public.hex()}") from None


def derive_key(secret: bytes, context: bytes, use: str, *clients: int) -> bytes:
    """Returns a key of 32 bytes for one use and these clients, in that order (HKDF, RFC 5869)."""
    info = use.encode() + b"".join(client.to_bytes(4, "big") for client in clients)
    return HKDF(SHA256(), KEY_BYTES, salt=context, info=b"fedjax-mri secure 1 " + info).derive(secret)


def commitment(seed: bytes) -> bytes:
    """Returns 32 bytes that tell whether a seed that is restored later is this one, and nothing else of it."""
    return hashlib.sha256(b"fedjax-mri secure 1 seed" + seed).digest()


def signature(secret: bytes, message: bytes) -> bytes:
    """Returns 64 bytes by which the holder of a signing key confirms a message."""
    return Ed25519PrivateKey.from_private_bytes(secret).sign(message)


def is_signed(public: bytes, signature: bytes, message: bytes) -> bool:
    """Returns whether the holder of a key has signed a message."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def encrypt(key: bytes, nonce: bytes, plain: bytes, associated_data: bytes) -> bytes:
    """Returns the nonce and the encrypted text, of which a change is noticed, as is one of the associated data."""
    return nonce + AESGCM(key).encrypt(nonce, plain, associated_data)


def decrypt(key: bytes, cipher: bytes, associated_data: bytes) -> bytes | None:
    """Returns the plain text of what `encrypt` made; None if either was changed."""
    try:
        return AESGCM(key).decrypt(cipher[:NONCE_BYTES], cipher[NONCE_BYTES:], associated_data)
    except (InvalidTag, ValueError):
        return None


def add_mask(words: np.ndarray, key: bytes, sign: int) -> None:
    """Adds to `words` uint32 [d] the mask of a key, or its negative if `sign` is -1, modulo 2^32 and in place."""
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    zeros, drawn = bytes(min(CHUNK, words.nbytes)), bytearray(min(CHUNK, words.nbytes) + 15)
    for start in range(0, len(words), CHUNK // 4):
        part = words[start : start + CHUNK // 4]
        stream.update_into(memoryview(zeros)[: part.nbytes], drawn)
        mask = np.frombuffer(drawn, "<u4", len(part))
        (np.add if sign > 0 else np.subtract)(part, mask, out=part)
