"""Programs that measure; nothing in ``src`` knows of them."""
