"""Flows: a tree of jobs whose parents start when their children have ended, added all or none."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from corral.queue.options import ChildFailure
from corral.queue.queue import Queue, options_from
from corral.queue.sharing import Room, share_of
from corral.queue.status import QueuedJob, user_of
from corral.wire.scripts import check_code, now_ms
from corral.wire.shared import Share

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
        TooManyJobs: One of its users has not the room for it; nothing was added.
        UnknownJobType: A job type is not declared.
    """
    root = find(flow.job_type)
    plan = _Plan(find, Room(root.keys), trace_context)
    plan.count(flow)
    tree = plan.add(flow, None)
    before = plan.room.commands()
    replies = await root.transaction([*before, *plan.commands])
    plan.room.check(replies)
    for reply in replies[len(before) :]:
        check_code(reply, job_id=tree.job.id, action="added")
    return tree


class _Plan:
    """The script calls that add a tree, parents first."""

    def __init__(self, find: Callable[[str], Queue], room: Room, trace_context: str | None) -> None:
        self.room = room
        self.commands: list[tuple[str, bytes]] = []
        self._find = find
        self._trace_context = trace_context
        self._now_ms = now_ms()

    def count(self, flow: Flow) -> None:
        """Count the room that it needs; before the first is added to the plan."""
        self.room.count(self._find(flow.job_type), flow.data)
        for child in flow.children:
            self.count(child)

    def add(self, flow: Flow, parent: Mapping[str, Any] | None) -> FlowJob:
        """Plan a job and its children."""
        queue = self._find(flow.job_type)
        options = options_from(queue.spec.defaults, flow.options)
        job_id = options.job_id or uuid.uuid4().hex
        options = options.changed(job_id=job_id, trace_context=options.trace_context or self._trace_context)
        delay_ms = options.delay_ms(self._now_ms)
        reference = dict(parent) if parent is not None else None
        if reference is not None and options.on_failure in _MARK:
            reference[_MARK[options.on_failure]] = True
        is_parent = bool(flow.children)
        refusal = self.room.refusal if self.room else None
        user = user_of(flow.data) or ""
        share = share_of(queue.spec, user, options, delay_ms=delay_ms, parent=is_parent, refusal=refusal)
        if share is None and refusal is not None:
            # A queue that isn't shared, in a flow that may be refused.
            share = Share(user="", kind="plain", refusal=refusal)
        self.commands.append(
            queue.scripts.add_command(
                name=queue.spec.name,
                data=queue.spec.encode_payload(flow.data),
                options=queue.pack_options(options, delay_ms),
                delay_ms=delay_ms,
                priority=options.priority,
                job_id=job_id,
                timestamp_ms=self._now_ms,
                parent=reference,
                deduplication_id=options.deduplication.id if options.deduplication else None,
                is_parent=is_parent,
                share=share,
            )
        )
        own = {"id": job_id, "queueKey": queue.keys.qualified}
        children = tuple(self.add(child, own) for child in flow.children)
        return FlowJob(QueuedJob(job_id, queue.spec.name), children)
