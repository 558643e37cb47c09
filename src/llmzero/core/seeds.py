"""Seeds that depend on where a draw stands: every generator is seeded anew, and none is stored."""

from __future__ import annotations

import hashlib


def seed_of(*parts: int) -> int:
    """Return a 63-bit seed that depends on every part."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
