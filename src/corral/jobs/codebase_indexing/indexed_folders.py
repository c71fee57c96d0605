"""Indexes of folders on this machine: which folder each one is of, so that those of deleted folders go."""

from __future__ import annotations

import logging
import os
import uuid
from pathlib import Path

from corral.adapters.index.port import IndexStore
from corral.errors import SearchFailed

_log = logging.getLogger(__name__)

_HOME = ".folders"
"""Beside the indexes; no project's folder begins with a dot."""


class IndexedFolders:
    """One small file for each folder that has an index, named as the index's project; it holds the folder's path.

    Args:
        indexes: Where the indexes are kept.
        store: Keeps them.
    """

    def __init__(self, indexes: Path, store: IndexStore) -> None:
        self._home = indexes / _HOME
        self._store = store

    def remember(self, project_id: str, folder: Path) -> None:
        """Note that a folder has an index, or is about to have one."""
        new = self._home / f".{uuid.uuid4().hex}"
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            new.write_bytes(os.fsencode(folder.resolve()))
            new.replace(self._home / project_id)
        except OSError as error:  # the index can't be written either, which is told to who asks
            _log.warning("the index of %s will not go with the folder: %s", folder, error)

    def forget_gone(self) -> list[Path]:
        """Remove the indexes of folders that are no more.

        One on a disk that is not there now goes too: it is made again when the folder is served again. A folder that
        may not be looked at keeps its index, and so does one that is just being indexed.

        Returns:
            Those folders.
        """
        gone = []
        for note in sorted(self._home.glob("[!.]*")):
            try:
                folder = Path(os.fsdecode(note.read_bytes()))
                if not _is_gone(folder):
                    continue
                self._store.remove(note.name, "")
                note.unlink(missing_ok=True)
            except (OSError, SearchFailed) as error:  # somebody else is at it, or the next time
                _log.warning("the index of a folder that is gone could not be removed: %s", error)
                continue
            gone.append(folder)
        return gone


def _is_gone(folder: Path) -> bool:
    try:
        folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
