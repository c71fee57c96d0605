"""What the fuzzer can't know: read by Schemathesis, not by pytest."""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import unquote

import schemathesis
from schemathesis.openapi.checks import EnsureResourceAvailability


@schemathesis.hook
def map_headers(_: Any, headers: dict[str, Any] | None) -> dict[str, Any] | None:
    """A key that was used before answers as before, though its job may be gone since: that is what it is for."""
    if headers and "Idempotency-Key" in headers and len(str(headers["Idempotency-Key"])) > 0:
        return {**headers, "Idempotency-Key": f"{str(headers['Idempotency-Key'])[:100]}{secrets.token_hex(4)}"}
    return headers


class Removals:
    """The jobs that the fuzzer itself has removed without a DELETE, from what its requests were answered.

    To cancel a job that hasn't started removes it, as do clean, drain, and a job that replaces one of its own
    deduplication id. The fuzzer knows of DELETE only.
    """

    def __init__(self) -> None:
        self._held: dict[str, set[str]] = {}
        self._gone: set[tuple[str, str]] = set()
        self._deduplicated: dict[tuple[str, str], str] = {}

    def note(self, case: Any, response: Any) -> None:
        """Remember what a successful request did."""
        operation = case.operation.definition.raw.get("operationId")
        if operation not in {"add_job", "cancel_job", "clean_queue", "drain_queue"}:
            return
        answer = response.json()
        job_type = unquote(str((case.path_parameters or {}).get("job_type", "")))
        if operation == "add_job":
            self._added(job_type, answer["id"], case.body)
        elif operation == "cancel_job" and answer["outcome"] == "removed":
            self._gone.add((answer["jobType"], answer["id"]))
        elif operation == "clean_queue":
            self._gone.update((job_type, job_id) for job_id in answer["removed"])
        elif operation == "drain_queue":
            self._gone.update((job_type, job_id) for job_id in self._held.pop(job_type, ()))

    def _added(self, job_type: str, job_id: str, body: Any) -> None:
        self._held.setdefault(job_type, set()).add(job_id)
        self._gone.discard((job_type, job_id))
        options = body.get("options") if isinstance(body, dict) else None
        asked = options.get("deduplication") if isinstance(options, dict) else None
        if isinstance(asked, dict):
            earlier = self._deduplicated.get((job_type, str(asked.get("id"))))
            if asked.get("replace") and earlier not in {None, job_id}:
                self._gone.add((job_type, str(earlier)))
            self._deduplicated[job_type, str(asked.get("id"))] = job_id

    def explain(self, case: Any) -> bool:
        """Whether the job that a request names is one of them."""
        named = case.path_parameters or {}
        return (unquote(str(named.get("job_type"))), unquote(str(named.get("job_id")))) in self._gone


_REMOVALS = Removals()


@schemathesis.hook
def after_call(_: Any, case: Any, response: Any) -> None:
    """Note what the request removed."""
    if 200 <= response.status_code < 300:
        _REMOVALS.note(case, response)


@schemathesis.hook
def filter_failure(_: Any, failure: Any, case: Any, __: Any) -> bool:
    """Keep every failure but one: that a job is missing which the fuzzer has removed itself."""
    return not (isinstance(failure, EnsureResourceAvailability) and _REMOVALS.explain(case))
