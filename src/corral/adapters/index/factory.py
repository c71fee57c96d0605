"""The index store that the settings name."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from corral.adapters.index.port import IndexStore
from corral.settings import Settings

if TYPE_CHECKING:
    from corral.adapters.index.shared import SharedIndexStore


def make_index_store(settings: Settings) -> IndexStore:
    """Make it; nothing is asked of a server yet.

    Raises:
        ConfigurationError: ``index_store`` is neither ``local`` nor the address of a bucket.
        ExtraMissing: What it needs is not installed.
    """
    if settings.index_store == "local":
        from corral.adapters.index.local import LocalIndexStore  # noqa: PLC0415 - optional: the ``index`` extra

        return LocalIndexStore(settings.data_dir / "indexes")
    return make_shared_store(settings)


def make_shared_store(settings: Settings) -> SharedIndexStore:
    """Make the one in a bucket.

    Raises:
        ConfigurationError: ``index_store`` is no address of a bucket.
        ExtraMissing: What it needs is not installed.
    """
    from corral.adapters.index.bucket import open_bucket  # noqa: PLC0415 - optional: the ``shared-index`` extra
    from corral.adapters.index.shared import SharedIndexStore  # noqa: PLC0415 - likewise

    endpoint = settings.index_store_endpoint
    bucket = open_bucket(settings.index_store, endpoint=endpoint)
    # Copies of different buckets never mix: their numbers mean different generations.
    named = hashlib.sha256(f"{endpoint or ''} {settings.index_store}".encode()).hexdigest()[:16]
    copies = settings.data_dir / "index-copies" / named
    return SharedIndexStore(bucket, copies, copies_bytes=settings.index_copies_mb * 1_000_000)
