"""Every error that Corral raises on purpose, as one tree.

::

    CorralError
    ├── ConfigurationError            wrong before anything ran; mend the setting and start again
    │   ├── SandboxUnavailable        the chosen sandbox can't run on this machine
    │   ├── ModelUnavailable          the chosen model or its extra is not installed, or its key is missing
    │   └── ExtraMissing              a feature whose optional dependency is not installed
    ├── StoreError                    Redis
    │   ├── StoreUnavailable          can't be reached, or can't do it now: try again later
    │   ├── StoreAuthenticationFailed wrong password or user, or one that may not do this
    │   └── StoreUnsuitable           version, eviction policy or mode that would lose jobs
    ├── PayloadInvalid                a payload, option or result that doesn't fit; says which field and why
    ├── UnknownJobType                no such job type is declared
    ├── UnknownProject                no such project is registered
    ├── TooManyJobs                   the user's number of waiting jobs in this queue is reached: user_id, limit
    ├── JobNotFound                   no such job in the queue
    ├── ArtifactNotFound              the job left no such file, or it is no longer kept
    ├── JobStateConflict              the job isn't in a state that allows the operation
    ├── LeaseLost                     another worker may hold the job now; nothing may be written
    ├── AdapterError                  a part outside failed: service, operation, retryable, retry_after
    │   ├── GitFailed  SandboxFailed  ForgeFailed  LlmFailed  SearchFailed
    ├── Unrecoverable                 raised by a handler: fail this job, do not retry
    ├── ProcessDied                   a handler's own process ended without an answer (retry)
    ├── RateLimited                   raised by a handler: pause the queue for ``retry_after``; uses no attempt
    ├── AccessRefused                 a face refuses the caller
    │   ├── NotAuthenticated          no credential, or one that is wrong, expired or revoked
    │   ├── NotPermitted              the caller is known, but lacks the scope, or claims to be another user
    │   └── TooManyRequests           the caller's request limit is used up: retry_after
    └── what a waiter sees
        ├── JobFailed                 the job ended as failed
        ├── JobCancelled              ... because somebody cancelled it
        └── ResultTimedOut            no result within the time that the waiter gave

Messages say what was expected, what came, and how to mend it. They never hold a secret.
Whether a failed attempt is tried again is decided in one place: ``corral.queue.retry``.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any


def _unpickled(kind: type[CorralError], args: tuple[Any, ...], values: dict[str, Any]) -> CorralError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(values)
    return error


class CorralError(Exception):
    """Corral could not do what was asked."""

    def __init__(self, message: str | None = None) -> None:
        """Use ``message``, or the class's docstring when there is none."""
        super().__init__(message or (type(self).__doc__ or type(self).__name__).splitlines()[0])

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without calling ``__init__`` again, whose arguments differ: errors cross from process to process."""
        return _unpickled, (type(self), self.args, self.__dict__)


class ConfigurationError(CorralError):
    """A setting is wrong."""


class SandboxUnavailable(ConfigurationError):
    """The chosen sandbox can't run on this machine."""


class ModelUnavailable(ConfigurationError):
    """The chosen model can't be used here."""


class ExtraMissing(ConfigurationError):
    """This feature needs an optional dependency that is not installed."""


class StoreError(CorralError):
    """Redis did not do what was asked."""


class StoreUnavailable(StoreError):
    """Redis can't be reached, or can't do what was asked now: trying again later can help."""


class StoreAuthenticationFailed(StoreError):
    """Redis refused the user name or the password."""


class StoreUnsuitable(StoreError):
    """This Redis would lose jobs or can't run BullMQ's scripts."""


class PayloadInvalid(CorralError, ValueError):
    """The payload doesn't fit the job type's model."""


class UnknownJobType(CorralError, LookupError):
    """No job type of this name is declared."""


class UnknownProject(CorralError, LookupError):
    """No project of this id is registered."""


class TooManyJobs(CorralError):
    """As many jobs of this user wait in the queue as may.

    Nothing was added. There is room again when one of them has started, or was cancelled.

    Attributes:
        user_id: Whose jobs.
        job_type: The queue.
        limit: How many may wait.
    """

    def __init__(self, message: str | None = None, *, user_id: str, job_type: str, limit: int) -> None:
        super().__init__(message)
        self.user_id = user_id
        self.job_type = job_type
        self.limit = limit


class JobNotFound(CorralError, LookupError):
    """There is no job of this id in the queue."""


class ArtifactNotFound(CorralError, LookupError):
    """The job left no such file, or it is no longer kept."""


class JobStateConflict(CorralError):
    """The job is not in a state that allows this."""


class LeaseLost(CorralError):
    """The lease on this job is lost: another worker may hold it now."""


class AdapterError(CorralError):
    """A part outside Corral failed.

    Attributes:
        service: What failed, for example ``"github"`` or ``"git"``.
        operation: What it was asked to do, for example ``"push"``.
        retryable: Whether the same call can succeed later without anybody mending anything.
        retry_after: How long the service asks to be left alone; None when it didn't say.
        reason: A stable, machine-readable name of the failure, for example ``"branch_protected"``.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        service: str,
        operation: str,
        retryable: bool,
        retry_after: timedelta | None = None,
        reason: str = "failed",
    ) -> None:
        super().__init__(message)
        self.service = service
        self.operation = operation
        self.retryable = retryable
        self.retry_after = retry_after
        self.reason = reason


class GitFailed(AdapterError):
    """A git command failed."""


class SandboxFailed(AdapterError):
    """The sandbox itself failed (not the program in it)."""


class ForgeFailed(AdapterError):
    """The forge refused or could not be reached."""


class LlmFailed(AdapterError):
    """The model's provider refused or could not be reached."""


class SearchFailed(AdapterError):
    """The code index could not be built or asked."""


class Unrecoverable(CorralError):
    """The job can't succeed however often it is tried.

    Attributes:
        reason: A stable, machine-readable name of the failure, for example ``"no_tests_collected"``.
    """

    def __init__(self, message: str | None = None, *, reason: str = "unrecoverable") -> None:
        super().__init__(message)
        self.reason = reason


class ProcessDied(CorralError):
    """The handler's process ended without an answer."""


class RateLimited(CorralError):
    """A service asked to be left alone for a while.

    Raised by a handler: the queue is paused for everybody for ``retry_after`` and the job goes back to its head
    without using an attempt.
    """

    def __init__(self, message: str | None = None, *, retry_after: timedelta) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class AccessRefused(CorralError):
    """The caller may not do this."""


class NotAuthenticated(AccessRefused):
    """A valid token is needed."""


class NotPermitted(AccessRefused):
    """The caller is known but may not do this.

    Attributes:
        scope: The scope that would have allowed it; None when no scope would.
    """

    def __init__(self, message: str | None = None, *, scope: str | None = None) -> None:
        super().__init__(message)
        self.scope = scope


class TooManyRequests(AccessRefused):
    """The caller's request limit is used up.

    Attributes:
        retry_after: When the next request will be allowed, from now.
    """

    def __init__(self, message: str | None = None, *, retry_after: timedelta) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class JobFailed(CorralError):
    """The job ended as failed.

    Attributes:
        job_id: The job that failed.
        reason: Its ``failedReason`` as recorded.
    """

    def __init__(self, message: str | None = None, *, job_id: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.job_id = job_id
        self.reason = reason


class JobCancelled(JobFailed):
    """The job was cancelled."""


class ResultTimedOut(CorralError, TimeoutError):
    """The job did not end within the time that the waiter gave it."""
