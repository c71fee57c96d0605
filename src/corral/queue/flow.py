"""Flows: a tree of jobs whose parents start when their children have ended, added all or none."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from corral.queue.options import ChildFailure
from corral.queue.queue import Queue, options_from
from corral.queue.status import QueuedJob
from corral.wire.scripts import check_code, now_ms

#: How BullMQ marks, in a child's parent reference, what the child's failure does.
_MARK = {
    ChildFailure.FAIL_PARENT: "fpof",
    ChildFailure.CONTINUE_PARENT: "cpof",
    ChildFailure.IGNORE: "idof",
    ChildFailure.REMOVE: "rdof",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Flow:
    """A job with the jobs that must end before it starts.

    Attributes:
        options: As ``add_job`` takes them: ``priority``, ``attempts``, ``job_id``, …; for a child also ``on_failure``.
    """

    job_type: str
    data: Any
    children: Sequence[Flow] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FlowJob:
    """An added flow."""

    job: QueuedJob[Any]
    children: tuple[FlowJob, ...] = ()


async def add_flow(flow: Flow, find: Callable[[str], Queue], *, trace_context: str | None = None) -> FlowJob:
    """Add a tree of jobs in one transaction.

    Args:
        find: The queue of a job type.
        trace_context: The trace that those jobs go on with whose options name none.

    Raises:
        PayloadInvalid: A payload doesn't fit; nothing reached Redis.
        UnknownJobType: A job type is not declared.
    """
    commands: list[tuple[str, bytes]] = []
    tree = _plan(flow, find, None, commands, timestamp_ms=now_ms(), trace_context=trace_context)
    replies = await find(flow.job_type).transaction(commands)
    for reply in replies:
        check_code(reply, job_id=tree.job.id, action="added")
    return tree


def _plan(
    flow: Flow,
    find: Callable[[str], Queue],
    parent: Mapping[str, Any] | None,
    commands: list[tuple[str, bytes]],
    *,
    timestamp_ms: int,
    trace_context: str | None,
) -> FlowJob:
    queue = find(flow.job_type)
    options = options_from(queue.spec.defaults, flow.options)
    job_id = options.job_id or uuid.uuid4().hex
    options = options.changed(job_id=job_id, trace_context=options.trace_context or trace_context)
    delay_ms = options.delay_ms(timestamp_ms)
    reference = dict(parent) if parent is not None else None
    if reference is not None and options.on_failure in _MARK:
        reference[_MARK[options.on_failure]] = True
    commands.append(
        queue.scripts.add_command(
            name=queue.spec.name,
            data=queue.spec.encode_payload(flow.data),
            options=queue.pack_options(options, delay_ms),
            delay_ms=delay_ms,
            priority=options.priority,
            job_id=job_id,
            timestamp_ms=timestamp_ms,
            parent=reference,
            deduplication_id=options.deduplication.id if options.deduplication else None,
            is_parent=bool(flow.children),
        )
    )
    own = {"id": job_id, "queueKey": queue.keys.qualified}
    children = tuple(
        _plan(child, find, own, commands, timestamp_ms=timestamp_ms, trace_context=trace_context)
        for child in flow.children
    )
    return FlowJob(QueuedJob(job_id, queue.spec.name), children)
