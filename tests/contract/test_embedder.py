"""What every embedder keeps: the static one, the double, and one over HTTP to a stand-in for the service."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest

from corral.adapters.embedder.api import ApiEmbedder, EmbeddingService
from corral.adapters.embedder.hashed import HashedEmbedder
from corral.adapters.embedder.port import Embedder, Passage
from corral.adapters.embedder.static import StaticEmbedder
from corral.adapters.words import words_of
from corral.errors import ConfigurationError, SearchFailed

DIMENSION = 32
KEY = "key-that-must-not-show"


class Service:
    """Speaks both dialects; counts what it is asked."""

    def __init__(self, *, packed: bool = False) -> None:
        self.packed = packed
        self.bodies: list[dict[str, object]] = []
        self.answers: list[httpx.Response] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert request.url.path == "/v1/embeddings"
        body = json.loads(request.content)
        self.bodies.append(body)
        if self.answers:
            return self.answers.pop(0)
        hashed = HashedEmbedder(DIMENSION)
        data = []
        for index, text in enumerate(body["input"]):
            vector = hashed.embed_query(text) * 3  # no unit length: that is the client's work
            raw = base64.b64encode(vector.astype("<f4").tobytes()).decode() if self.packed else vector.tolist()
            data.append({"index": index, "embedding": raw})
        usage = {"total_tokens": 10 * len(data)}
        return httpx.Response(200, json={"data": data[::-1], "usage": usage})


def api(
    service: Service, *, cache: Path | None = None, voyage: bool = False, dimension: int = DIMENSION
) -> ApiEmbedder:
    place = EmbeddingService(
        model="voyage-code-3",
        base_url="http://127.0.0.1:9/v1",
        api_key=KEY,
        dimension=dimension,
        voyage=voyage,
        choose_dimension=voyage,
    )
    return ApiEmbedder(place, cache=cache, transport=httpx.MockTransport(service))


@pytest.fixture(params=["static", "hashed", "openai", "openai packed", "voyage"])
def embedder(request: pytest.FixtureRequest) -> Embedder:
    makers: dict[str, Callable[[], Embedder]] = {
        "static": StaticEmbedder,
        "hashed": lambda: HashedEmbedder(DIMENSION),
        "openai": lambda: api(Service()),
        "openai packed": lambda: api(Service(packed=True)),
        "voyage": lambda: api(Service(), voyage=True),
    }
    return makers[str(request.param)]()


def passage(text: str) -> Passage:
    return Passage(text, frozenset(words_of(text).split()))


def test_vectors_have_the_length_they_say_and_are_unit(embedder: Embedder) -> None:
    texts = ["def open_file(path): return open(path)", "class HttpServer: pass", "parse json response body"] * 300
    done = embedder.embed([passage(text) for text in texts])
    assert done.vectors.shape == (900, embedder.dimension)
    assert np.linalg.norm(done.vectors, axis=1) == pytest.approx(1, abs=1e-3)
    assert done.vectors[0] == pytest.approx(done.vectors[3], abs=1e-5)
    assert done.cost_usd >= 0


def test_no_passages_give_no_vectors(embedder: Embedder) -> None:
    assert embedder.embed([]).vectors.shape == (0, embedder.dimension)


def test_a_question_is_nearest_to_what_it_asks(embedder: Embedder) -> None:
    done = embedder.embed([passage("read and open a file"), passage("send an email message")])
    similar = done.vectors @ embedder.embed_query("open file")
    assert similar[0] > similar[1]


def test_nothing_known_is_no_error(embedder: Embedder) -> None:
    done = embedder.embed([passage("~~~ !!!")])
    assert np.isfinite(done.vectors).all()
    assert np.isfinite(embedder.embed_query("~~~")).all()


def test_the_static_one_knows_meaning_beyond_words() -> None:
    static = StaticEmbedder()
    done = static.embed([passage("def delete_account(user): ..."), passage("def draw_triangle(canvas): ...")])
    similar = done.vectors @ static.embed_query("remove a customer")
    assert similar[0] > similar[1]


def test_the_cache_serves_all_projects_and_costs_nothing(tmp_path: Path) -> None:
    service = Service()
    first = api(service, cache=tmp_path / "c" / "vectors.sqlite")
    paid = first.embed([passage("one thing"), passage("another thing"), passage("one thing")])
    assert paid.cost_usd > 0
    first.close()
    again = api(service, cache=tmp_path / "c" / "vectors.sqlite")
    asked = len(service.bodies)
    free = again.embed([passage("another thing"), passage("one thing")])
    assert len(service.bodies) == asked
    assert free.cost_usd == 0
    assert free.vectors[1] == pytest.approx(paid.vectors[0], abs=1e-2)
    again.close()


def test_batches_are_bounded() -> None:
    service = Service()
    api(service).embed([passage(f"number {number}") for number in range(250)])
    assert sorted(len(body["input"]) for body in service.bodies) == [58, 96, 96]  # type: ignore[arg-type]


def test_voyage_is_told_what_is_a_question() -> None:
    service = Service()
    voyage = api(service, voyage=True)
    voyage.embed([passage("code")])
    voyage.embed_query("question")
    assert [body["input_type"] for body in service.bodies] == ["document", "query"]
    assert {body["output_dimension"] for body in service.bodies} == {DIMENSION}


@pytest.mark.parametrize(
    ("answer", "retryable", "wait"),
    [
        (httpx.Response(429, headers={"retry-after": "7"}), True, timedelta(seconds=7)),
        (httpx.Response(429), True, timedelta(seconds=20)),
        (httpx.Response(503), True, None),
        (httpx.Response(401, text=KEY), False, None),
        (httpx.Response(200, json={"oops": 1}), True, None),
        (httpx.Response(200, text="<html>"), True, None),
        (httpx.Response(200, json={"data": [{"index": 0, "embedding": [1.0, 2.0]}]}), False, None),
    ],
)
def test_a_refusal_says_whether_to_try_again(
    answer: httpx.Response,
    retryable: bool,  # noqa: FBT001 - a parameter of the table
    wait: timedelta | None,
) -> None:
    service = Service()
    service.answers.append(answer)
    with pytest.raises(SearchFailed) as failed:
        api(service).embed([passage("code")])
    assert (failed.value.retryable, failed.value.retry_after) == (retryable, wait)
    assert KEY not in str(failed.value)


def test_an_unreachable_service_is_tried_again() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    place = EmbeddingService(model="m", base_url="http://127.0.0.1:9/v1", api_key=KEY, dimension=3)
    with pytest.raises(SearchFailed) as failed:
        ApiEmbedder(place, transport=httpx.MockTransport(refuse)).embed_query("x")
    assert failed.value.retryable
    assert KEY not in repr(place)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="http"):
        ApiEmbedder(EmbeddingService(model="m", base_url="ftp://x", dimension=3))
