from __future__ import annotations

import asyncio
import io
import json
import logging
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.integration.interfaces.samples import ClientFactory

from corral.client import Corral
from corral.errors import JobFailed, Unrecoverable
from corral.interfaces.http import create_app
from corral.interfaces.observability.logs import JsonFormatter, mask_secrets
from corral.interfaces.observability.telemetry import Telemetry
from corral.queue.job import Job

WAIT = timedelta(seconds=20)
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def spans() -> InMemorySpanExporter:
    """OpenTelemetry has one provider for a process, set once."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
async def working(corral: Corral, spans: InMemorySpanExporter) -> Corral:
    spans.clear()

    @corral.handler("traced", attempts=1)
    async def traced(job: Job[dict[str, Any]]) -> str:
        with trace.get_tracer("handler").start_as_current_span("inside"):
            if job.data.get("fail"):
                raise Unrecoverable("no")
            logging.getLogger("mine").warning("working with token=%s", "abcdefgh12345678")
            return "ok"

    corral.observer = Telemetry()
    await corral.start_workers(["traced"])
    return corral


async def span_named(spans: InMemorySpanExporter, name: str) -> Any:
    async with asyncio.timeout(10):
        while True:
            for span in spans.get_finished_spans():
                if span.name == name:
                    return span
            await asyncio.sleep(0.01)  # the worker ends the span after the result is known to us


async def test_trace_goes_from_the_producer_into_the_handler(working: Corral, spans: InMemorySpanExporter) -> None:
    with trace.get_tracer("app").start_as_current_span("request") as request:
        job = await working.add_job("traced", {})
    assert await working.wait_for_result(job, timeout=WAIT) == "ok"

    status = await working.get_job_status("traced", job.id)
    carried = json.loads(status.trace_context or "")["traceparent"]
    process, inside = await span_named(spans, "process traced"), await span_named(spans, "inside")
    assert f"{request.get_span_context().trace_id:032x}" in carried
    assert process.context.trace_id == inside.context.trace_id == request.get_span_context().trace_id
    assert process.parent.span_id == request.get_span_context().span_id
    assert inside.parent.span_id == process.context.span_id
    assert process.attributes["messaging.message.id"] == job.id


async def test_trace_that_node_began_goes_on(working: Corral, spans: InMemorySpanExporter) -> None:
    """As bullmq-otel writes it: ``JSON.stringify`` of the propagator's carrier."""
    job = await working.add_job("traced", {}, trace_context=json.dumps({"traceparent": PARENT}))
    await working.wait_for_result(job, timeout=WAIT)

    process = await span_named(spans, "process traced")
    assert f"{process.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{process.parent.span_id:016x}" == PARENT.split("-")[2]


@pytest.mark.parametrize("garbage", ["", "{", "[]", '{"traceparent": 7}', '{"traceparent": "nonsense"}', "x" * 10_000])
async def test_garbage_in_the_telemetry_field_harms_nothing(
    working: Corral, spans: InMemorySpanExporter, garbage: str
) -> None:
    job = await working.add_job("traced", {}, trace_context=garbage)

    assert await working.wait_for_result(job, timeout=WAIT) == "ok"
    assert (await span_named(spans, "process traced")).parent is None


async def test_failure_is_on_the_span(working: Corral, spans: InMemorySpanExporter) -> None:
    job = await working.add_job("traced", {"fail": True})
    with pytest.raises(JobFailed):
        await working.wait_for_result(job, timeout=WAIT)

    process = await span_named(spans, "process traced")
    assert not process.status.is_ok
    assert process.attributes["corral.outcome"] == "failed"


async def test_metrics_tell_depths_and_outcomes(working: Corral, open_client: ClientFactory) -> None:
    good = await working.add_job("traced", {})
    await working.wait_for_result(good, timeout=WAIT)
    await working.add_job("anything", {})
    client = await open_client(of=create_app(working))

    answer = await client.get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain")
    lines = answer.text.splitlines()
    assert 'corral_jobs{queue="anything",state="waiting"} 1.0' in lines
    assert 'corral_jobs{queue="traced",state="completed"} 1.0' in lines
    assert 'corral_attempts_total{outcome="completed",queue="traced"} 1.0' in lines
    assert 'corral_job_wait_seconds_count{queue="traced"} 1.0' in lines
    (oldest,) = [line for line in lines if line.startswith('corral_oldest_waiting_seconds{queue="anything"}')]
    assert 0 < float(oldest.split()[-1]) < 60


async def test_logs_of_a_handler_name_job_and_trace_and_hide_secrets(working: Corral) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("mine")
    logger.addHandler(handler)
    try:
        job = await working.add_job("traced", {"userId": "ann"}, trace_context=json.dumps({"traceparent": PARENT}))
        await working.wait_for_result(job, timeout=WAIT)
    finally:
        logger.removeHandler(handler)

    entry = json.loads(stream.getvalue())
    assert (entry["job_id"], entry["job_type"], entry["user_id"]) == (job.id, "traced", "ann")
    assert entry["trace_id"] == PARENT.split("-")[1]
    assert entry["message"] == "working with token=***"


@pytest.mark.parametrize(
    "secret",
    [
        "corral_0123456789abcdef_" + "A" * 43,
        "ghp_abcdefghijklmnopqrstuvwxyz",
        "sk-abcdefghijklmnop1234",
        "Authorization: Bearer abcdefgh12345678",
        "redis://user:hunter22@host:6379",
        "password=hunter22",
        '"api_key": "hunter22"',
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl",
    ],
)
def test_secrets_are_masked(secret: str) -> None:
    masked = mask_secrets(f"before {secret} after")

    assert "***" in masked
    for hidden in ("A" * 43, "abcdefghijklmnop", "abcdefgh12345678", "hunter22", "eyJzdWIi"):
        assert hidden not in masked
    assert masked.startswith("before ")
    assert masked.endswith(" after")
