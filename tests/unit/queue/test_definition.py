"""Job types: models from annotations, payloads and results as JSON, one-line explanations."""

from __future__ import annotations

import json
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from corral.errors import ConfigurationError, PayloadInvalid
from corral.queue.definition import Isolation, JobTypeSpec, explain, from_handler
from corral.queue.job import Job, ThreadJob


class Thumbnail(BaseModel):
    url: str
    width: int = 10


class Size(BaseModel):
    width: int


async def typed(job: Job[Thumbnail]) -> Size:
    return Size(width=job.data.width)


async def untyped(job):  # type: ignore[no-untyped-def]
    return job


def plain(job: ThreadJob[Thumbnail]) -> None:
    job.log_now("x")


class HandlerObject:
    async def __call__(self, job: Job[Thumbnail]) -> Size:
        return Size(width=job.data.width)


@pytest.mark.parametrize(
    ("handler", "payload", "result", "isolation"),
    [
        (typed, Thumbnail, Size, Isolation.ASYNC),
        (untyped, None, None, Isolation.ASYNC),
        (plain, Thumbnail, None, Isolation.THREAD),
        (HandlerObject(), Thumbnail, Size, Isolation.ASYNC),
    ],
)
def test_models_are_read_from_annotations(handler: Any, payload: Any, result: Any, isolation: Isolation) -> None:
    spec = from_handler("x", handler)
    assert (spec.payload, spec.result, spec.isolation) == (payload, result, isolation)


@pytest.mark.parametrize(("handler", "isolation"), [(typed, "thread"), (plain, "async")])
def test_a_handler_and_its_isolation_must_go_together(handler: Any, isolation: str) -> None:
    with pytest.raises(ConfigurationError, match="function"):
        from_handler("x", handler, isolation=isolation)


def test_a_handler_that_takes_no_job_is_refused() -> None:
    async def nothing() -> None: ...

    with pytest.raises(ConfigurationError, match="takes no job"):
        from_handler("x", nothing)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\nb", "x" * 129])
def test_names_that_can_not_be_a_queue_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="name"):
        JobTypeSpec(name=name)


def test_an_error_names_each_field_in_one_line() -> None:
    spec = JobTypeSpec(name="x", payload=Thumbnail)
    with pytest.raises(PayloadInvalid) as caught:
        spec.encode_payload({"width": "wide"})
    text = str(caught.value)
    assert "url: field required" in text
    assert "width: input should be a valid integer" in text
    assert "\n" not in text


def test_a_long_value_is_cut_in_the_message() -> None:
    spec = JobTypeSpec(name="x", payload=Thumbnail)
    with pytest.raises(PayloadInvalid) as caught:
        spec.encode_payload({"url": ["secret" * 1000]})
    assert len(str(caught.value)) < 300


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_any_json_survives_the_way_there_and_back(value: Any) -> None:
    spec = JobTypeSpec(name="x")
    try:
        text = spec.encode_payload(value)
    except PayloadInvalid:
        # A lone surrogate has no UTF-8 form: refused, not mangled.
        with pytest.raises(UnicodeEncodeError):
            json.dumps(value, ensure_ascii=False).encode()
        return
    assert spec.decode_payload(text.decode()) == value
    assert spec.decode_result(spec.encode_result(value).decode()) == value


@pytest.mark.parametrize("text", ["", "{", "nul", '{"url": "a"', "[" * 100_000])
def test_broken_json_is_a_payload_that_does_not_fit(text: str) -> None:
    for spec in (JobTypeSpec(name="x"), JobTypeSpec(name="x", payload=Thumbnail)):
        with pytest.raises(PayloadInvalid):
            spec.decode_payload(text)


def test_what_is_no_number_becomes_null_as_json_has_none() -> None:
    assert JobTypeSpec(name="x").encode_result({"a": float("nan")}) == b'{"a":null}'


class Address(BaseModel):
    url: Annotated[str, StringConstraints(max_length=5)]
    tags: tuple[str, ...] = ()

    model_config = ConfigDict(extra="forbid")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"url": "https://ada:s3cret@h/x"}, "got 'https://***@h/x'"),
        ({"url": "x", "tags": "a"}, "tags: input should be a list, got 'a'"),
        ({"url": "x", "tag": "a"}, "tag: there is no such field"),
        ([1], "(whole): input should be an object, got [1]"),
    ],
)
def test_what_does_not_fit_is_said_in_json_s_words_and_without_secrets(value: Any, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Address.model_validate(value)
    told = explain(caught.value)
    assert said in told
    assert "s3cret" not in told
