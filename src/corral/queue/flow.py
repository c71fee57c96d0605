"""Flows: a tree of jobs whose parents start when their children have ended, added all or none."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from corral.queue.options import ChildFailure
from corral.queue.queue import Queue, options_from
from corral.queue.sharing import Room, share_of
from corral.queue.status import QueuedJob
from corral.wire.scripts import check_code, now_ms
from corral.wire.shared import Refusal, Share

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


async def add_flow(flow: Flow, find: Callable[[str], Queue]) -> FlowJob:
    """Add a tree of jobs in one transaction.

    Args:
        find: The queue of a job type.

    Raises:
        PayloadInvalid: A payload doesn't fit; nothing reached Redis.
        TooManyJobs: One of its users has not the room for it; nothing was added.
        UnknownJobType: A job type is not declared.
    """
    commands: list[tuple[str, bytes]] = []
    room = Room(find(flow.job_type).keys)
    _count(flow, find, room)
    tree = _plan(flow, find, None, commands, now_ms(), room.refusal if room else None)
    before = room.commands()
    replies = await find(flow.job_type).transaction([*before, *commands])
    room.check(replies)
    for reply in replies[len(before) :]:
        check_code(reply, job_id=tree.job.id, action="added")
    return tree


def _count(flow: Flow, find: Callable[[str], Queue], room: Room) -> None:
    room.count(find(flow.job_type), flow.data)
    for child in flow.children:
        _count(child, find, room)


def _plan(
    flow: Flow,
    find: Callable[[str], Queue],
    parent: Mapping[str, Any] | None,
    commands: list[tuple[str, bytes]],
    timestamp_ms: int,
    refusal: Refusal | None,
) -> FlowJob:
    queue = find(flow.job_type)
    options = options_from(queue.spec.defaults, flow.options)
    job_id = options.job_id or uuid.uuid4().hex
    options = options.changed(job_id=job_id)
    delay_ms = options.delay_ms(timestamp_ms)
    reference = dict(parent) if parent is not None else None
    if reference is not None and options.on_failure in _MARK:
        reference[_MARK[options.on_failure]] = True
    is_parent = bool(flow.children)
    share = share_of(queue.spec, flow.data, options, delay_ms=delay_ms, parent=is_parent, refusal=refusal)
    if share is None and refusal is not None:
        # A queue that isn't shared, in a flow that may be refused.
        share = Share(user="", kind="plain", refusal=refusal)
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
            is_parent=is_parent,
            share=share,
        )
    )
    own = {"id": job_id, "queueKey": queue.keys.qualified}
    children = tuple(_plan(child, find, own, commands, timestamp_ms, refusal) for child in flow.children)
    return FlowJob(QueuedJob(job_id, queue.spec.name), children)
