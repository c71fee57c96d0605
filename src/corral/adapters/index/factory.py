"""The index store that the settings name."""

from __future__ import annotations

import hashlib

from corral.adapters.index.port import IndexStore
from corral.settings import Settings


def make_index_store(settings: Settings) -> IndexStore:
    """Make it; nothing is asked of a server yet.

    Raises:
        ConfigurationError: ``index_store`` is neither ``local`` nor the address of a bucket.
        ExtraMissing: What it needs is not installed.
    """
    if settings.index_store == "local":
        from corral.adapters.index.local import LocalIndexStore  # noqa: PLC0415 - optional: the ``index`` extra

        return LocalIndexStore(settings.data_dir / "indexes")
    from corral.adapters.index.bucket import open_bucket  # noqa: PLC0415 - optional: the ``shared-index`` extra
    from corral.adapters.index.shared import SharedIndexStore  # noqa: PLC0415 - likewise

    endpoint = settings.index_store_endpoint
    bucket = open_bucket(settings.index_store, endpoint=endpoint)
    # Copies of different buckets never mix: their numbers mean different generations.
    named = hashlib.sha256(f"{endpoint or ''} {settings.index_store}".encode()).hexdigest()[:16]
    return SharedIndexStore(bucket, settings.data_dir / "index-copies" / named)
