"""Adding jobs over HTTP: one, many, and flows."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from corral.errors import JobNotFound, JobStateConflict, PayloadInvalid
from corral.interfaces.http import models
from corral.interfaces.http.context import Call, CallDep
from corral.interfaces.http.guard import SHORTCUTS, StrictRequest
from corral.interfaces.http.idempotency import IdempotencyKey, KeyedRequest, once
from corral.interfaces.http.routes import Section, endpoint
from corral.queue.flow import Flow
from corral.queue.options import Backoff, Deduplication, Retention

if TYPE_CHECKING:
    from corral.queue.definition import JobTypeSpec
    from corral.queue.flow import FlowJob

_OWNER_KEPT: Final = timedelta(days=30)
_FLOW_NODES: Final = 1000
_JOB_PARAMETERS: Final = {"job_type": "$response.body#/jobType", "job_id": "$response.body#/id"}
_ADDED: Final[dict[int | str, dict[str, Any]]] = {
    201: {
        "headers": {"Location": {"description": "Where the job is.", "schema": {"type": "string"}}},
        "links": {
            name: {"operationId": operation, "parameters": _JOB_PARAMETERS}
            for name, operation in (
                ("status", "get_job"),
                ("result", "get_result"),
                ("logs", "get_logs"),
                ("cancel", "cancel_job"),
                ("retry", "retry_job"),
                ("promote", "promote_job"),
                ("remove", "remove_job"),
            )
        },
    }
}


def add_routes(section: Section) -> None:
    """Add the endpoints."""
    endpoint(section, "POST", "/jobs/{job_type}", add_job, scope="submit", answers=models.AddedJob, status=201,
             problems=(404, 409), more=_ADDED)  # fmt: skip
    endpoint(section, "POST", "/queues/{job_type}/jobs", add_jobs, scope="submit", answers=models.AddedJobs, status=201,
             problems=(404, 409))  # fmt: skip
    endpoint(section, "POST", "/flows", add_flow, scope="submit", answers=models.AddedFlow, status=201,
             problems=(404, 409), more=_ADDED)  # fmt: skip


async def add_job(
    request: Request, call: CallDep, job_type: models.JobTypeName, body: models.AddJob, key: IdempotencyKey = None
) -> Response:
    """Add one job.

    The job type's model checks `data`; camelCase and snake_case are accepted. `userId` is the caller's, and filled in
    when missing; only an `admin` token may name another user.
    """
    spec = call.corral.job_types[call.known(job_type)]
    data, owner = own_data(call, spec, body.data)
    options = option_arguments(call, body.options)
    if "job_id" in options:
        await refuse_taken(call, job_type, options["job_id"])

    async def run(id_of: Callable[[int], str | None]) -> dict[str, Any]:
        job_id = options.pop("job_id", None) or id_of(0)
        job = await call.corral.add_job(job_type, data, job_id=job_id, **options)
        if owner is not None:
            await remember_owners(call, [(job_type, job.id, owner)])
        return {"id": job.id, "jobType": job_type}

    return await once(await _keyed(request, call, f"add_job:{job_type}", key), run, location=call.api.job_path)


async def _add_job_shortcut(request: StrictRequest, call: Call) -> Response | None:
    """`add_job` for a request of the usual form."""
    job_type = request.path_params["job_type"]
    headers = request.headers
    if (
        job_type not in call.corral.job_types
        or "idempotency-key" in headers
        or headers.get("content-type") != "application/json"
    ):
        return None
    try:
        body = models.AddJob.model_validate(await request.json())
    except ValueError:  # not JSON, or not such a body
        return None
    return await add_job(request, call, job_type, body)


SHORTCUTS[add_job] = _add_job_shortcut


async def add_jobs(
    request: Request, call: CallDep, job_type: models.JobTypeName, body: models.AddJobs, key: IdempotencyKey = None
) -> Response:
    """Add many jobs of one type, all or none.

    With an `Idempotency-Key`, repeating the request adds what is missing and answers the same ids.
    """
    spec = call.corral.job_types[call.known(job_type)]
    if body.options.job_id is not None or body.options.deduplication is not None:
        raise PayloadInvalid("options: expected neither jobId nor deduplication for many jobs, as they name one")
    owned = [own_data(call, spec, item) for item in body.items]
    options = option_arguments(call, body.options)

    async def run(id_of: Callable[[int], str | None]) -> dict[str, Any]:
        if id_of(0) is None:
            jobs = await call.corral.add_jobs(job_type, [data for data, _ in owned], **options)
        else:
            jobs = [
                await call.corral.add_job(job_type, data, job_id=id_of(number), **options)
                for number, (data, _) in enumerate(owned)
            ]
        await remember_owners(
            call, [(job_type, job.id, owner) for job, (_, owner) in zip(jobs, owned, strict=True) if owner is not None]
        )
        return {"jobs": [{"id": job.id, "jobType": job_type} for job in jobs]}

    return await once(await _keyed(request, call, f"add_jobs:{job_type}", key), run)


async def add_flow(request: Request, call: CallDep, body: models.FlowNode, key: IdempotencyKey = None) -> Response:
    """Add a job together with the jobs that it waits for, as one tree, all or none.

    The answer is the tree with its ids. Each child's `onFailure` says what its final failure does to its parent.
    """
    nodes = list(_nodes(body))
    if len(nodes) > _FLOW_NODES:
        raise PayloadInvalid(f"expected at most {_FLOW_NODES} jobs in one flow, got {len(nodes)}")
    for node in nodes:
        call.known(node.job_type)
        if node.options.job_id is not None:
            await refuse_taken(call, node.job_type, node.options.job_id)
    owners: list[tuple[str, str, str]] = []

    def build(node: models.FlowNode, number: Iterator[int], id_of: Callable[[int], str | None]) -> Flow:
        data, owner = own_data(call, call.corral.job_types[node.job_type], node.data)
        options = option_arguments(call, node.options)
        options["job_id"] = options.get("job_id") or id_of(next(number))
        if options["job_id"] is None:
            del options["job_id"]
        if owner is not None:
            options.setdefault("job_id", uuid.uuid4().hex)
            owners.append((node.job_type, options["job_id"], owner))
        children = [build(child, number, id_of) for child in node.children]
        options["on_failure"] = node.on_failure
        return Flow(job_type=node.job_type, data=data, children=children, options=options)

    async def run(id_of: Callable[[int], str | None]) -> dict[str, Any]:
        added = await call.corral.add_flow(build(body, itertools.count(), id_of))
        await remember_owners(call, owners)
        return _flow_answer(added)

    return await once(await _keyed(request, call, "add_flow", key), run, location=call.api.job_path)


def _flow_answer(added: FlowJob) -> dict[str, Any]:
    children = [_flow_answer(child) for child in added.children]
    return {"id": added.job.id, "jobType": added.job.job_type, "children": children}


def _nodes(root: models.FlowNode) -> Iterator[models.FlowNode]:
    yield root
    for child in root.children:
        yield from _nodes(child)


async def refuse_taken(call: Call, job_type: str, job_id: str) -> None:
    """Refuse an id that names somebody else's job: adding it would add nothing, and may not make it the caller's.

    Raises:
        JobStateConflict: It is taken.
    """
    try:
        status = await call.corral.get_job_status(job_type, job_id)
    except JobNotFound:
        return
    if not await call.may_see(status):
        raise JobStateConflict(f"options.jobId: {job_id!r} is taken; choose another")


async def _keyed(request: Request, call: Call, endpoint_name: str, key: str | None) -> KeyedRequest | None:
    if key is None:
        return None
    return KeyedRequest(
        call.corral.redis,
        prefix=call.corral.namespace,
        user_id=call.principal.user_id,
        endpoint=endpoint_name,
        key=key,
        body=await request.body(),
    )


def own_data(call: Call, spec: JobTypeSpec, data: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Make a payload the caller's.

    Returns:
        The payload, with ``userId`` filled in where the job type has it, and the owner to record beside the job where
        it hasn't.

    Raises:
        NotPermitted: It claims another user, or a project that the caller may not use.
    """
    user = call.principal.claim(data)
    if "userId" in data or "user_id" in data:
        return data, None
    model = spec.payload
    named = _user_field(model) if isinstance(model, type) and issubclass(model, BaseModel) else "userId"
    return ({**data, named: user}, None) if named else (data, user)


@cache
def _user_field(model: type[BaseModel]) -> str | None:
    """What a payload's model calls the user; None when it has no place for one."""
    fields = model.model_fields
    names = {(field.alias or name) for name, field in fields.items()} | set(fields)
    return next((name for name in ("userId", "user_id") if name in names), None)


async def remember_owners(call: Call, jobs: list[tuple[str, str, str]]) -> None:
    """Record whose jobs these are (type, id, user), as their payloads can't say it."""
    if not jobs:
        return
    async with call.corral.redis.pipeline(transaction=False) as pipe:
        for job_type, job_id, owner in jobs:
            pipe.set(call.owner_key(job_type, job_id), owner, ex=_OWNER_KEPT, nx=True)
        await pipe.execute()


def option_arguments(call: Call, options: models.JobOptions) -> dict[str, Any]:
    """The options that were given, as ``add_job`` takes them."""
    back, asked = options.backoff, options.deduplication
    # Two users who choose the same deduplication id must not merge into one job.
    owner = "" if call.principal.sees_everyone else f"{call.principal.user_id}/"
    given = {
        "priority": 0 if options.lifo and options.priority is None else options.priority,
        "delay": _milliseconds(options.delay_ms),
        "run_at": options.run_at,
        "attempts": options.attempts,
        "backoff": back and Backoff(timedelta(milliseconds=back.delay_ms), back.type, back.jitter),
        "job_id": options.job_id,
        "lifo": options.lifo or None,
        "deduplication": asked
        and Deduplication(
            id=owner + asked.id,
            ttl=_milliseconds(asked.ttl_ms),
            extend=asked.extend,
            replace=asked.replace,
            keep_last_if_active=asked.keep_last_if_active,
        ),
        "keep_completed": _kept(options.keep_completed_s),
        "keep_failed": _kept(options.keep_failed_s),
    }
    return {name: value for name, value in given.items() if value is not None}


def _milliseconds(value: int | None) -> timedelta | None:
    return None if value is None else timedelta(milliseconds=value)


def _kept(seconds: int | None) -> Retention | None:
    if seconds is None:
        return None
    return Retention(age=timedelta(seconds=seconds)) if seconds else Retention(count=0)
