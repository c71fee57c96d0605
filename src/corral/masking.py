"""What must not be shown of an address: whoever reports one passes it through here first."""

from __future__ import annotations

import re
from typing import Final

# Begins with what is rare: a text of megabytes, which may be a stranger's, is gone through once.
_USERINFO: Final = re.compile(r"://[^/\s]*@")


def without_credentials(text: str, *, instead: str = "***@") -> str:
    """A text with ``instead`` in place of the user and password of each address in it.

    Up to the last ``@`` before the path: a user's name may have one of its own.
    """
    return _USERINFO.sub(f"://{instead}", text)
