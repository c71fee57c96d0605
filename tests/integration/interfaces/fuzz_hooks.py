"""What the fuzzer can't know: read by Schemathesis, not by pytest."""

from __future__ import annotations

import secrets
from typing import Any

import schemathesis


@schemathesis.hook
def map_headers(_: Any, headers: dict[str, Any] | None) -> dict[str, Any] | None:
    """A key that was used before answers as before, though its job may be gone since: that is what it is for."""
    if headers and "Idempotency-Key" in headers and len(str(headers["Idempotency-Key"])) > 0:
        return {**headers, "Idempotency-Key": f"{str(headers['Idempotency-Key'])[:100]}{secrets.token_hex(4)}"}
    return headers
