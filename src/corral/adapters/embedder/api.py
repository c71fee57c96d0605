"""Embeddings from a service over HTTP: OpenAI's interface, which most servers speak, and Voyage's.

Passages go in batches, several at once. What a service says about its limits becomes ``retry_after`` of the error, so
that the queue waits instead of the thread. A cache keeps vectors by model and content, whatever project they came from.
"""

from __future__ import annotations

import base64
import hashlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corral.adapters.embedder.port import Embedded, Passage
from corral.errors import ConfigurationError, ExtraMissing, SearchFailed

try:
    import httpx
    import numpy as np
except ImportError as missing:
    raise ExtraMissing("an embedding service needs httpx and numpy: pip install 'corral[index]' httpx") from missing

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BATCH = 96
_BATCH_CHARS = 200_000
_AT_ONCE = 4
_MAX_PASSAGE_CHARS = 8_000
_TOO_MANY = 429
_SERVER_ERROR = 500
_DEFAULT_WAIT = timedelta(seconds=20)

PRICE_PER_MILLION_TOKENS_USD: Mapping[str, float] = {
    "text-embedding-3-small": 0.02,
    "text-embedding-3-large": 0.13,
    "voyage-code-3": 0.18,
    "voyage-3.5": 0.06,
    "voyage-3.5-lite": 0.02,
}
"""As published when this was written; a model that is not here is counted as free unless a price is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingService:
    """Where vectors come from.

    Attributes:
        model: As the service calls it.
        base_url: Up to and with ``/v1``.
        api_key: Never shown; None for a server of one's own.
        dimension: Length of a vector; asked of the service where it lets one choose.
        voyage: Whether it speaks Voyage's dialect: ``input_type`` for questions and documents, ``output_dimension``.
        choose_dimension: Whether to send ``dimension`` at all; many servers refuse the field.
        price_per_million_tokens_usd: None: as in the table.
    """

    model: str
    base_url: str
    api_key: str | None = None
    dimension: int
    voyage: bool = False
    choose_dimension: bool = False
    price_per_million_tokens_usd: float | None = None

    def __repr__(self) -> str:
        return f"EmbeddingService(model={self.model!r}, base_url={self.base_url!r}, dimension={self.dimension})"


class ApiEmbedder:
    """Vectors from a service.

    Args:
        service: Which.
        cache: A file that keeps vectors; None keeps none.
        transport: For tests.
        timeout: Longest wait for one batch.
    """

    fusion_weight = 0.75  # MiniLM's: a service's can't be measured without its key (docs/search.md)

    def __init__(
        self,
        service: EmbeddingService,
        *,
        cache: Path | None = None,
        transport: httpx.BaseTransport | None = None,
        timeout: timedelta = timedelta(seconds=60),
    ) -> None:
        if not service.base_url.startswith(("http://", "https://")):
            raise ConfigurationError(
                f"expected an embedding service's address as http(s)://…, got {service.base_url!r}"
            )
        self._service = service
        self.name = f"{service.model}@{service.dimension}"
        self.dimension = service.dimension
        headers = {"authorization": f"Bearer {service.api_key}"} if service.api_key else {}
        self._client = httpx.Client(
            base_url=service.base_url.rstrip("/") + "/",
            headers=headers,
            timeout=timeout.total_seconds(),
            transport=transport,
        )
        self._cache = VectorCache(cache) if cache else None
        price = service.price_per_million_tokens_usd
        self._price = PRICE_PER_MILLION_TOKENS_USD.get(service.model, 0.0) if price is None else price

    def embed(self, passages: Sequence[Passage]) -> Embedded:
        """Embed chunks; those that the cache knows cost nothing."""
        texts = [passage.text[:_MAX_PASSAGE_CHARS] or " " for passage in passages]
        keys = [_key(self.name, text) for text in texts]
        known = self._cache.get(keys) if self._cache else {}
        asked = list(dict.fromkeys(index for index, key in enumerate(keys) if key not in known))
        cost = 0.0
        batches = list(_batches([(index, texts[index]) for index in asked]))
        if batches:
            with ThreadPoolExecutor(min(_AT_ONCE, len(batches))) as pool:
                answers = list(pool.map(lambda batch: self._ask([text for _, text in batch], question=False), batches))
            for batch, (vectors, tokens) in zip(batches, answers, strict=True):
                cost += tokens * self._price / 1e6
                found = {keys[index]: vector for (index, _), vector in zip(batch, vectors, strict=True)}
                known.update(found)
                if self._cache:
                    self._cache.put(found)
        out = np.array([known[key] for key in keys], dtype=np.float32).reshape(len(keys), self.dimension)
        return Embedded(out, cost)

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """Embed a question."""
        vectors, _ = self._ask([text[:_MAX_PASSAGE_CHARS]], question=True)
        vector: NDArray[np.float32] = vectors[0]
        return vector

    def close(self) -> None:
        """Close the connections and the cache."""
        self._client.close()
        if self._cache:
            self._cache.close()

    def _ask(self, texts: Sequence[str], *, question: bool) -> tuple[NDArray[np.float32], int]:
        """Unit vectors and the tokens that were counted for them."""
        service = self._service
        body: dict[str, Any] = {"model": service.model, "input": list(texts)}
        if service.voyage:
            body["input_type"] = "query" if question else "document"
        if service.choose_dimension:
            body["output_dimension" if service.voyage else "dimensions"] = service.dimension
        try:
            answer = self._client.post("embeddings", json=body)
        except httpx.TransportError as error:
            raise self._failed(f"can't be reached ({type(error).__name__})", retryable=True) from error
        if answer.status_code != httpx.codes.OK:
            raise self._refused(answer)
        try:
            data = sorted(answer.json()["data"], key=lambda entry: entry["index"])
            vectors = np.array([_vector(entry["embedding"]) for entry in data], dtype=np.float32)
            tokens = int((answer.json().get("usage") or {}).get("total_tokens", 0))
        except (ValueError, KeyError, TypeError) as error:
            raise self._failed("gave an answer that is no list of embeddings", retryable=True) from error
        if vectors.shape != (len(texts), service.dimension):
            raise self._failed(
                f"gave vectors of shape {vectors.shape}, expected {(len(texts), service.dimension)}: set its dimension",
                retryable=False,
            )
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.maximum(norms, 1e-12), tokens

    def _refused(self, answer: httpx.Response) -> SearchFailed:
        retryable = answer.status_code == _TOO_MANY or answer.status_code >= _SERVER_ERROR
        wait = None
        if answer.status_code == _TOO_MANY:
            said = answer.headers.get("retry-after", "")
            wait = timedelta(seconds=float(said)) if said.replace(".", "", 1).isdecimal() else _DEFAULT_WAIT
        return self._failed(f"answered {answer.status_code}", retryable=retryable, retry_after=wait)

    def _failed(self, what: str, *, retryable: bool, retry_after: timedelta | None = None) -> SearchFailed:
        return SearchFailed(
            f"the embedding service at {self._client.base_url.host} {what}",
            service="embedder",
            operation="embed",
            retryable=retryable,
            retry_after=retry_after,
            reason="embedding_failed",
        )


class VectorCache:
    """Vectors by model and content, in one SQLite file that any number of processes share."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._sqlite = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        self._sqlite.execute("PRAGMA journal_mode=WAL")
        self._sqlite.execute("PRAGMA synchronous=NORMAL")
        self._sqlite.execute(
            "CREATE TABLE IF NOT EXISTS vectors(key BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID"
        )

    def get(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Those that are known."""
        found: dict[bytes, NDArray[np.float32]] = {}
        with self._lock:
            for key in keys:
                row = self._sqlite.execute("SELECT vector FROM vectors WHERE key = ?", (key,)).fetchone()
                if row:
                    found[key] = np.frombuffer(row[0], dtype=np.float16).astype(np.float32)
        return found

    def put(self, vectors: Mapping[bytes, NDArray[np.float32]]) -> None:
        """Keep them."""
        rows = [(key, vector.astype(np.float16).tobytes()) for key, vector in vectors.items()]
        with self._lock:
            self._sqlite.execute("BEGIN IMMEDIATE")
            self._sqlite.executemany("INSERT OR REPLACE INTO vectors VALUES(?,?)", rows)
            self._sqlite.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._sqlite.close()


def _key(name: str, text: str) -> bytes:
    return hashlib.sha256(f"{name}\0{text}".encode("utf-8", "replace")).digest()


def _vector(raw: Any) -> Any:
    """A list of numbers, or base64 of little-endian float32, which some servers prefer."""
    return np.frombuffer(base64.b64decode(raw), dtype="<f4") if isinstance(raw, str) else raw


def _batches(texts: Sequence[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    batch: list[tuple[int, str]] = []
    size = 0
    for index, text in texts:
        if batch and (len(batch) == _BATCH or size + len(text) > _BATCH_CHARS):
            yield batch
            batch, size = [], 0
        batch.append((index, text))
        size += len(text)
    if batch:
        yield batch
