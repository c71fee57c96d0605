"""A folder in an S3-compatible object store: whole objects, and one that is swapped only by who saw it last."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar

from corral.errors import ConfigurationError, ExtraMissing, SearchFailed

try:
    import obstore
    from obstore.exceptions import (
        AlreadyExistsError,
        BaseError,
        NotModifiedError,
        PermissionDeniedError,
        PreconditionError,
        UnauthenticatedError,
    )
    from obstore.store import MemoryStore, S3Store
except ImportError as missing:
    raise ExtraMissing(
        "an index store for several machines needs the 'shared-index' extra: pip install 'corral[shared-index]'"
    ) from missing

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

T = TypeVar("T")

_PARALLEL: Final = 8
_DELETE_BATCH: Final = 500
_CLIENT: Final[ClientConfig] = {
    "connect_timeout": timedelta(seconds=3),
    "timeout": timedelta(seconds=30),
    "user_agent": "corral",
}
_RETRY: Final[RetryConfig] = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {"init_backoff": timedelta(milliseconds=50), "max_backoff": timedelta(milliseconds=500), "base": 2},
}
_ADDRESS: Final = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[A-Za-z0-9/_.-]*))?")
_CODE: Final = re.compile(r"<Code>([A-Za-z]{1,40})</Code>")
_STATUS: Final = re.compile(r"\b([45]\d\d) [A-Z]")


@dataclass(frozen=True, slots=True)
class Held:
    """An object and the tag of exactly this content."""

    content: bytes
    tag: str


class Unchanged:
    """What a reader already has."""


class SwapRefused(Exception):
    """Somebody else swapped the object first."""


class Bucket:
    """Objects below one prefix.

    Every failure is a ``SearchFailed`` that names the operation and the server's error code and nothing that the server
    or the client said besides: their texts hold key ids and signatures.

    Args:
        store: An opened object store.
        shown: Its address, for people.
    """

    def __init__(self, store: S3Store | MemoryStore, shown: str) -> None:
        self._store = store
        self._shown = shown
        self._threads = ThreadPoolExecutor(_PARALLEL, thread_name_prefix="corral-index-objects")

    def read(self, key: str) -> Held | None:
        """An object; None when there is none."""
        held = self.read_unless(key, None)
        if isinstance(held, Unchanged):  # can't be: nothing was held
            raise TypeError(held)
        return held

    def read_unless(self, key: str, tag: str | None) -> Held | Unchanged | None:
        """An object, or that it still has this tag; None when there is none in the bucket."""

        def ask() -> Held | Unchanged | None:
            try:
                answer = obstore.get(self._store, key, options={"if_none_match": tag} if tag else None)
                return Held(bytes(answer.bytes()), answer.meta["e_tag"] or "")
            except NotModifiedError:
                return Unchanged()
            except FileNotFoundError as error:
                if _is_without_bucket(error):
                    raise
                return None

        return self._done("read", ask)

    def write(self, objects: Iterable[tuple[str, Callable[[], bytes]]]) -> None:
        """Store objects, several at a time; each content is made when its turn comes, so that few are in memory."""

        def put(item: tuple[str, Callable[[], bytes]]) -> None:
            key, made = item[0], item[1]()  # a file that can't be read is no fault of the store's
            self._done("write", lambda: obstore.put(self._store, key, made, use_multipart=False))

        for _ in self._threads.map(put, objects):
            pass

    def copy(self, source: str, target: str) -> bool:
        """Copy an object inside the store; False when the source is gone."""

        def ask() -> bool:
            try:
                obstore.copy(self._store, source, target)
            except FileNotFoundError:
                return False
            return True

        return self._done("copy", ask)

    def fetch(self, keys: Iterable[str], take: Callable[[int, bytes], None]) -> bool:
        """Read many objects, several at a time, giving each one's place and content; False when one is gone."""

        def get(item: tuple[int, str]) -> bool:
            held = self.read(item[1])
            if held is not None:
                take(item[0], held.content)
            return held is not None

        return all(list(self._threads.map(get, enumerate(keys))))

    def swap(self, key: str, content: bytes, tag: str | None) -> str:
        """Replace an object only if it still has this tag (None: only if there is none); returns the new tag.

        Raises:
            SwapRefused: It has not. A write whose answer was lost and that was sent again is refused too, by itself.
            SearchFailed: The store can't be asked.
        """

        def ask() -> str:
            try:
                done = obstore.put(
                    self._store, key, content, mode={"e_tag": tag} if tag else "create", use_multipart=False
                )
            except (AlreadyExistsError, PreconditionError, FileNotFoundError) as error:
                if _is_without_bucket(error):
                    raise
                raise SwapRefused from error
            return done["e_tag"] or ""

        return self._done("swap", ask)

    def keys(self, prefix: str) -> list[str]:
        """All keys below a prefix."""
        return self._done(
            "list", lambda: [meta["path"] for batch in obstore.list(self._store, prefix) for meta in batch]
        )

    def folders(self, prefix: str) -> list[str]:
        """Names of what lies directly below a prefix and has something below itself."""
        found = self._done("list", lambda: obstore.list_with_delimiter(self._store, prefix))
        return [name.rstrip("/").rpartition("/")[2] for name in found["common_prefixes"]]

    def delete(self, keys: list[str]) -> None:
        """Delete objects; those that are gone already are no error."""

        def ask(some: list[str]) -> None:
            try:
                obstore.delete(self._store, some)
            except FileNotFoundError:
                for key in some:
                    try:
                        obstore.delete(self._store, [key])
                    except FileNotFoundError:
                        continue  # somebody else cleaned up too

        for start in range(0, len(keys), _DELETE_BATCH):
            some = keys[start : start + _DELETE_BATCH]
            self._done("delete", lambda some=some: ask(some))  # type: ignore[misc]

    def check(self) -> None:
        """Write, swap and delete a probe.

        Raises:
            ConfigurationError: The store ignores conditions on writes: two publishers would overwrite each other.
            SearchFailed: It can't be reached, or refuses.
        """
        key = f"probe/{uuid.uuid4().hex}"
        try:
            first = self._swap_once(key, b"1", None)
            second = self._swap_once(key, b"2", first)
            for stale in (None, first):
                try:
                    self.swap(key, b"3", stale)
                except SwapRefused:
                    continue
                raise ConfigurationError(
                    f"{self._shown} ignores If-Match or If-None-Match on writes, so several machines can't share an "
                    "index in it; use a newer server"
                )
            if second == first:
                raise ConfigurationError(f"{self._shown} gives different contents one ETag")
        except SwapRefused as refused:
            raise ConfigurationError(f"{self._shown} refuses conditional writes; use a newer server") from refused
        finally:
            self.delete([key])

    def _swap_once(self, key: str, content: bytes, tag: str | None) -> str:
        """Of an object that is nobody else's: if it holds this, only the answer got lost."""
        try:
            return self.swap(key, content, tag)
        except SwapRefused:
            held = self.read(key)
            if held is None or held.content != content:
                raise
            return held.tag

    def _done(self, operation: str, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except (BaseError, OSError, TimeoutError) as error:
            raise _failed(self._shown, operation, error) from None  # its text is not ours to show


def open_bucket(address: str, *, endpoint: str | None = None) -> Bucket:
    """The bucket of a setting; nothing is asked of it yet.

    Args:
        address: ``s3://BUCKET/PREFIX``. Keys and region come from the environment as with every S3 client
            (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN``, ``AWS_REGION``), else from the
            machine's role.
        endpoint: Of a server that is not Amazon's.

    Raises:
        ConfigurationError: The address is none.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise ConfigurationError(f"expected CORRAL_INDEX_STORE as local or s3://BUCKET/PREFIX, got {address!r}")
    prefix = (found["prefix"] or "").strip("/")
    plain = endpoint is not None and endpoint.startswith("http://")
    server: S3Config = {"endpoint": endpoint, "virtual_hosted_style_request": False} if endpoint else {}
    try:
        store = S3Store(
            found["bucket"],
            config=server,
            prefix=prefix or None,
            client_options={**_CLIENT, "allow_http": plain},
            retry_config=_RETRY,
        )
    except (BaseError, ValueError) as error:
        raise ConfigurationError(
            f"the object store {address} can't be set up ({type(error).__name__}); look at the AWS_ variables"
        ) from None
    return Bucket(store, address)


def _is_without_bucket(error: Exception) -> bool:
    """Whether it is not an object that is missing: what is asked of no bucket must never seem to be an empty one."""
    code = _CODE.search(str(error))
    return code is not None and code[1] == "NoSuchBucket"


def _failed(shown: str, operation: str, error: Exception) -> SearchFailed:
    text = str(error)
    code = _CODE.search(text)
    status = _STATUS.search(text)
    said = code[1] if code else f"HTTP {status[1]}" if status else type(error).__name__
    refused = isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError) or (
        status is not None and status[1].startswith("4") and status[1] not in {"408", "429"}
    )
    hint = "; look at the AWS_ variables and the bucket's policy" if refused else ""
    return SearchFailed(
        f"the index store {shown} can't be asked to {operation}: {said}{hint}",
        service="index",
        operation=operation,
        retryable=not refused,
        reason="index_store_refused" if refused else "index_store_unavailable",
    )
