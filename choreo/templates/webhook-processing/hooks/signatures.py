"""Signatures: HMAC-SHA256 over the body, in hexadecimal digits, with the secret that HOOKS_SECRET holds."""

from __future__ import annotations

import hashlib
import hmac
import os
import sys


def sign(body: str) -> str:
    secret = os.environ.get("HOOKS_SECRET", "only for trying it out")
    return hmac.new(secret.encode(), body.encode(), hashlib.sha256).hexdigest()


def is_genuine(body: str, signature: str) -> bool:
    return hmac.compare_digest(sign(body).encode(), signature.encode())


if __name__ == "__main__":
    print(sign(sys.argv[1]))
