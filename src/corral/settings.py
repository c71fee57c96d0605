"""All settings, from the environment or a ``.env`` file.

One class, so that one table documents them (``docs/settings.md``, kept true by a test). Secrets are ``SecretStr``: they
never show in a ``repr``, a log or an error.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, DotEnvSettingsSource, NoDecode, SettingsConfigDict, SettingsError

from corral.errors import ConfigurationError


def _default_data_dir() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "corral"


def _paths(value: object) -> object:
    return tuple(Path(part) for part in value.split(os.pathsep) if part) if isinstance(value, str) else value


def _words(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class Settings(BaseSettings):
    """What Corral reads at start; every field can be set as ``CORRAL_<FIELD>``, some by a customary name too."""

    model_config = SettingsConfigDict(
        env_prefix="CORRAL_",
        env_file=".env",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        use_attribute_docstrings=True,  # docs/settings.md is made of them
    )

    # --- Redis
    redis_url: Annotated[
        SecretStr | None,
        Field(validation_alias=AliasChoices("redis_url", "REDIS_URL", "CORRAL_REDIS_URL")),
    ] = None
    """``redis://``, ``rediss://`` (TLS), ``unix://``; None starts the embedded Valkey in ``data_dir``."""
    prefix: str = "bull"
    """BullMQ's key prefix."""
    data_dir: Path = Field(default_factory=_default_data_dir)
    """Where the embedded server, mirrors, worktrees, indexes and models are kept. Safe to delete, but for jobs in the
    embedded server."""

    # --- jobs
    attempts: int = Field(default=3, ge=1)
    """How often a job is tried in all."""
    backoff: timedelta = timedelta(seconds=1)
    """Delay before the first retry; doubles with each one."""
    concurrency: int = Field(default=5, ge=1)
    """Jobs at once per worker and queue."""
    rate_limit_max: int = Field(default=100, ge=0)
    """Jobs per ``rate_limit_duration`` and queue of the four job types; 0 lifts the limit."""
    rate_limit_duration: timedelta = timedelta(minutes=1)
    """The window of ``rate_limit_max``."""
    fair: bool = False
    """Let users take turns in the queues of the four job types; set by either of the next two as well."""
    user_max_waiting: int | None = Field(default=None, ge=1)
    """How many jobs of one user may wait in one of these queues, delayed ones included; a further one is refused."""
    user_max_active: int | None = Field(default=None, ge=1)
    """How many jobs of one user may run at once in one of these queues, over all workers."""
    keep_completed: timedelta = timedelta(hours=24)
    """How long completed jobs are kept."""
    keep_failed: timedelta = timedelta(hours=48)
    """How long failed jobs are kept."""

    # --- workers
    lease: timedelta = timedelta(seconds=10)
    """How long a worker may be silent before its jobs are given to another (BullMQ's lock duration)."""
    max_crashes: int = Field(default=3, ge=0)
    """How many workers a job may take down before it fails."""
    metrics_minutes: int = Field(default=1_440, ge=0)
    """How many minutes of ended jobs per minute are kept (BullMQ's metrics); 0 counts nothing."""
    shutdown_timeout: timedelta = timedelta(seconds=30)
    """How long active jobs may go on after SIGTERM."""

    # --- the model
    model: str = "local"
    """``local``, ``openai:NAME``, ``anthropic:NAME``, ``google:NAME``, or ``openai-compatible:NAME`` with
    ``model_base_url``. Keys come from the provider's own variable (``OPENAI_API_KEY``, …)."""
    model_base_url: str | None = None
    """Address of an OpenAI-compatible server (vLLM, Ollama, llama.cpp)."""
    model_api_key: SecretStr | None = None
    """Key of that server, when it wants one."""
    local_model_path: Path | None = None
    """A GGUF file to use instead of the downloaded one."""
    llm_cache_ttl: timedelta = timedelta(hours=1)
    """How long a model's answer is kept under ``llm:{model}:{hash}``."""
    job_tokens: int | None = Field(default=None, ge=1)
    """Most tokens that one code generation may use, unless its own budget says otherwise."""
    job_usd: float | None = Field(default=None, gt=0)
    """Most dollars that one code generation may cost, likewise."""
    user_tokens_per_day: int | None = Field(default=None, ge=1)
    """Most tokens that one user's jobs may use on one day (UTC)."""
    user_usd_per_day: float | None = Field(default=None, gt=0)
    """Most dollars that one user's jobs may cost on one day (UTC)."""
    tokens_per_day: int | None = Field(default=None, ge=1)
    """Most tokens that all jobs may use on one day (UTC)."""
    usd_per_day: float | None = Field(default=None, gt=0)
    """Most dollars that all jobs may cost on one day (UTC)."""
    commit_trailers: dict[str, str] = Field(default_factory=lambda: {"Generated-By": "corral"})
    """Trailers of generated commits, as a JSON object; ``Task`` and ``Model`` are always added."""

    # --- the code index
    embedder: str = "static"
    """``static`` (inside the package), ``minilm`` or ``minilm:FOLDER`` (``model.onnx`` and ``tokenizer.json`` in it),
    ``openai:NAME``, ``voyage:NAME``, or ``openai-compatible:NAME`` with ``embedder_base_url``. A change makes each
    index anew at its next job."""
    embedder_base_url: str | None = None
    """Address of an embedding service, up to and with ``/v1``."""
    embedder_api_key: SecretStr | None = None
    """Key of the embedding service."""
    embedder_dimension: int | None = Field(default=None, ge=1)
    """Length of its vectors, where it isn't known or a shorter one is wanted."""
    embedder_fusion_weight: float | None = Field(default=None, ge=0, le=10)
    """How much the embedder's vectors count beside the words; none: as docs/search.md lists it for the embedder."""
    index_store: str = "local"
    """Where indexes are kept: ``local``, in ``data_dir``; or ``s3://BUCKET/PREFIX``, for workers on several machines
    (keys and region by ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``, or the machine's role)."""
    index_copies_mb: int = Field(default=10_000, ge=1)
    """Most disk that this machine's copies of shared indexes take; the least recently used that nobody has open go
    first."""
    index_memory_mb: int = Field(default=4096, ge=512)
    """Most memory of a process that builds an index; one that needs more counts as crashed."""
    index_nested: bool = False
    """Whether ``corral mcp FOLDER`` enters submodules and other repositories inside the folder. (For indexing jobs a
    project's own registration names the projects that are its submodules.)"""
    index_store_endpoint: str | None = None
    """Address of an S3-compatible server that is not Amazon's."""

    # --- running code
    sandbox: Literal["bubblewrap", "docker", "podman", "none"] = "bubblewrap"
    """What contains untrusted code. ``none`` contains nothing."""
    test_timeout: timedelta = timedelta(minutes=5)
    """Longest run of a set-up or test command, whole process tree."""
    sandbox_read_only_paths: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_paths)] = ()
    """Further toolchains that sandboxed programs see, as in ``PATH`` (``/opt/go:/opt/rust``); each one's ``bin`` comes
    first in theirs. The system's folders, this Python and Node are seen anyway."""
    sandbox_image: str | None = None
    """Image of the container sandboxes; it is never pulled by a job."""
    sandbox_setup_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)] = ()
    """Hosts that a set-up command with ``network: setup`` may reach, with commas: ``name``, ``name:port``,
    ``*.name``."""
    sandbox_setup_networks: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)] = ()
    """Networks of those hosts that are not public (``10.1.0.0/16``), with commas; others of that kind are refused."""
    sandbox_setup_env: dict[str, str] = Field(default_factory=dict)
    """Variables of set-up commands, as JSON: addresses of package registries, never secrets."""
    sandbox_memory_mb: int = Field(default=2048, ge=16)
    """Most memory of one sandboxed process tree, its ``/tmp`` included."""
    sandbox_processes: int = Field(default=512, ge=1)
    """Most processes and threads of one tree."""
    sandbox_cpu_seconds: int = Field(default=600, ge=1)
    """Most CPU time of one tree."""
    sandbox_file_size_mb: int = Field(default=512, ge=1)
    """Largest file."""
    sandbox_disk_mb: int = Field(default=1024, ge=1)
    """Most that one tree writes to its worktree."""
    sandbox_tmp_mb: int = Field(default=256, ge=1)
    """Size of the private ``/tmp``, which is memory."""
    sandbox_output_kb: int = Field(default=16_384, ge=1)
    """Most output."""
    sandbox_open_files: int = Field(default=1024, ge=16)
    """Most open files of one process."""
    dependency_cache_mb: int = Field(default=4096, ge=0)
    """Size of the cache of set-up results; the least recently used go first."""

    # --- the forge
    github_token: Annotated[
        SecretStr | None,
        Field(validation_alias=AliasChoices("github_token", "GITHUB_TOKEN", "CORRAL_GITHUB_TOKEN")),
    ] = None
    """Token for pushes and pull requests on GitHub."""
    github_url: str = "https://api.github.com"
    """Base address of GitHub's API; change it for GitHub Enterprise."""
    github_app_id: str | None = None
    """Id (or client id) of a GitHub App; with the next two it is used instead of ``github_token``."""
    github_app_installation_id: int | None = None
    """The App's installation in the account that owns the repositories."""
    github_app_private_key: SecretStr | None = None
    """The App's private key in PEM, or the path of its file."""
    github_app_workflows: bool = False
    """Ask for tokens that may change ``.github/workflows`` too; the App must have that permission."""
    github_webhook_secret: Annotated[SecretStr, Field(min_length=16)] | None = None
    """Secret of GitHub's webhook, at least 16 characters; opens ``POST /v1/hooks/github``, which indexes what is
    pushed."""
    gitlab_token: Annotated[
        SecretStr | None,
        Field(validation_alias=AliasChoices("gitlab_token", "GITLAB_TOKEN", "CORRAL_GITLAB_TOKEN")),
    ] = None
    """Token for pushes and merge requests on GitLab."""
    gitlab_url: str = "https://gitlab.com"
    """Address of GitLab."""
    gitea_token: Annotated[
        SecretStr | None,
        Field(validation_alias=AliasChoices("gitea_token", "GITEA_TOKEN", "CORRAL_GITEA_TOKEN")),
    ] = None
    """Token for pushes and pull requests on Gitea or Forgejo."""
    gitea_url: str | None = None
    """Address of Gitea or Forgejo; goes with ``gitea_token``, which is sent to no other."""
    forge_write_interval: timedelta = timedelta(seconds=1)
    """Least time between two requests that create something on a forge, across all workers."""
    forge_writes_per_hour: int = Field(default=450, ge=1)
    """Most such requests an hour; GitHub documents 500."""
    task_url: str | None = None
    """Address of a task on the platform, with ``{task_id}`` in it; pull requests link it."""
    commit_signing_key: Path | None = None
    """SSH private key that signs generated commits; None leaves them unsigned."""
    commit_author: Annotated[str, Field(pattern=r"^[^<>\x00-\x1f]+<[^<>\x00-\x20]+>$")] = "Corral <corral@localhost>"
    """Author of generated commits, ``Name <mail>``."""

    # --- HTTP
    host: str = "127.0.0.1"
    """Bind address of ``corral serve``."""
    port: int = Field(default=8787, ge=1, le=65535)
    """Port of ``corral serve``."""
    metrics_host: str = "127.0.0.1"
    """Bind address of ``corral worker --metrics-port``; another than loopback needs an API token or a JWT key."""
    request_limit: int = Field(default=100, ge=0)
    """HTTP requests a minute per user and endpoint; 0 lifts the limit."""
    request_max_bytes: int = Field(default=8_388_608, ge=1024)
    """Largest body of an HTTP request."""
    long_poll_max: timedelta = timedelta(seconds=60)
    """Longest time that one HTTP request waits for a job's result."""
    log_format: Literal["console", "json"] = "console"
    """How ``corral serve`` and ``corral worker`` log."""
    session_lifetime: timedelta = timedelta(hours=12)
    """How long a login to the dashboard lasts."""

    # --- who may do what
    jwt_secret: SecretStr | None = None
    """Secret of the platform's own HS256 tokens, at least 32 bytes."""
    jwt_jwks: str | None = None
    """``https://`` address or file of a JWK set, for the platform's RS256, ES256 and EdDSA tokens."""
    jwt_issuer: str | None = None
    """``iss`` that such a token must have; None accepts any."""
    jwt_audience: str | None = None
    """``aud`` that such a token must have; None: the token must not name one."""


_FORMS: Final = {
    "model": (
        r"local|(openai|anthropic|google|openai-compatible):.+",
        "local, openai:NAME, anthropic:NAME, google:NAME or openai-compatible:NAME",
    ),
    "embedder": (
        r"static|minilm(:.+)?|(openai|voyage|openai-compatible):.+",
        "static, minilm, minilm:FOLDER, openai:NAME, voyage:NAME or openai-compatible:NAME",
    ),
    "index_store": (r"local|s3://.+", "local or s3://BUCKET/PREFIX"),
}
"""Settings that name a part of Corral, so that a process doesn't start whose jobs would all fail."""
_NO_SETTINGS: Final = frozenset({"CORRAL_APP"})


def read_settings() -> Settings:
    """The settings of this process, from the environment and ``.env``.

    Raises:
        ConfigurationError: One of them doesn't fit; names the variable, and never shows what may be a secret.
    """
    try:
        settings = Settings()
        faults = [
            f"{variable_of(field)}: expected {expected}, got {value!r}"
            for field, (form, expected) in _FORMS.items()
            if not re.fullmatch(form, value := getattr(settings, field))
        ]
        if not faults:
            return settings
    except ValidationError as error:
        faults = [_fault(problem) for problem in error.errors(include_url=False, include_context=False)]
    except SettingsError as error:
        field = re.search(r'field "(\w+)"', str(error))
        faults = [f"{variable_of(field[1]) if field else str(error)}: expected JSON"]
    raise ConfigurationError(f"A setting doesn't fit: {'; '.join(faults)}. Mend it in the environment or in .env.")


def stray_variables() -> dict[str, str | None]:
    """Variables of the environment and of ``.env`` that begin like a setting's and are none.

    Returns:
        Each with the setting that its name is like, if there is one.
    """
    known = {name for field in Settings.model_fields for name in (variable_of(field), f"CORRAL_{field.upper()}")}
    names = {name.upper() for name in (*os.environ, *DotEnvSettingsSource(Settings).env_vars)}
    return {
        name: next(iter(difflib.get_close_matches(name, known, 1, 0.8)), None)
        for name in sorted(names - known - _NO_SETTINGS)
        if name.startswith("CORRAL_") and not name.startswith("CORRAL_TEST_")
    }


def variable_of(field: str) -> str:
    """The environment's name of a setting: the customary one where it has one."""
    found = Settings.model_fields.get(field)
    aliases = found.validation_alias if found is not None else None
    if isinstance(aliases, AliasChoices):
        return str(aliases.choices[1])
    return f"CORRAL_{field.upper()}" if found is not None else field


def _fault(problem: Mapping[str, Any]) -> str:
    field, *inner = (str(step) for step in problem["loc"]) if problem["loc"] else ("",)
    secret = field not in Settings.model_fields or "SecretStr" in str(Settings.model_fields[field].annotation)
    got = "" if secret else f", got {str(problem['input'])[:80]!r}"
    return f"{'.'.join([variable_of(field), *inner])}: {problem['msg'][:1].lower()}{problem['msg'][1:]}{got}"
