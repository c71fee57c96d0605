"""Projects: the repositories that jobs work on, registered once.

Wire:
    ``{prefix}:projects``  HASH  project id -> JSON of :class:`Project`
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from corral.errors import ConfigurationError, UnknownProject
from corral.wire.commands import RedisCommands, text

_KNOWN_HOSTS: Final = {"github.com": "github", "gitlab.com": "gitlab", "codeberg.org": "gitea", "gitea.com": "gitea"}
_GLOB: Final = re.compile(r"^[^\x00-\x1f]+$")


class ForgeKind(StrEnum):
    """Where a project's pull requests are opened."""

    LOCAL = "local"
    """A git repository on this disk; needs no account."""
    GITHUB = "github"
    """github.com, or GitHub Enterprise with ``forge_url``."""
    GITLAB = "gitlab"
    """gitlab.com, or an own GitLab with ``forge_url``."""
    GITEA = "gitea"
    """Gitea or Forgejo."""


class Project(BaseModel):
    """One registered repository and how its jobs treat it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    id: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Chosen by the platform; becomes a folder's name."""
    repository: Annotated[str, Field(min_length=1, max_length=2048)]
    """``https://…`` or an absolute path; never with a user name or a token in it."""
    default_branch: Annotated[str, Field(min_length=1, max_length=200)] = "main"
    forge: ForgeKind = ForgeKind.LOCAL
    """Guessed from the repository's host when left out: a path is ``local``."""
    forge_url: Annotated[str, Field(max_length=2048)] | None = None
    """Address of the forge's API, when it is not the public one of its kind."""
    test_command: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    setup_command: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    allow_workflow_changes: bool = False
    """Whether jobs may change what runs in the forge's CI (``.github/workflows`` and its like)."""
    protected_paths: tuple[Annotated[str, Field(min_length=1, max_length=1024)], ...] = ()
    """Further globs that jobs must not change; ``dir/**`` is everything below ``dir``."""
    allowed_secrets: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...] = ()
    """Fingerprints of findings of the secret scan that are known to be harmless."""
    submodules: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1, max_length=64)], ...], Field(max_length=100)
    ] = ()
    """Other registered projects that are indexed as submodules of this one; whoever may search this one sees them."""
    max_changed_files: int = Field(default=300, ge=1)
    max_changed_lines: int = Field(default=20_000, ge=1)
    """Lines added plus lines removed."""
    max_file_bytes: int = Field(default=5 * 1024 * 1024, ge=1)
    """Largest file that a job may add or change."""

    @model_validator(mode="before")
    @classmethod
    def _guess_forge(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("forge") is None and isinstance(data.get("repository"), str):
            host = urlsplit(data["repository"]).hostname
            if host is None:
                return {**data, "forge": ForgeKind.LOCAL}
            if host not in _KNOWN_HOSTS:
                raise ValueError(f"can't tell which forge {host!r} is; give forge as one of {', '.join(ForgeKind)}")
            return {**data, "forge": _KNOWN_HOSTS[host]}
        return data

    @field_validator("repository")
    @classmethod
    def _plain_repository(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme == "file":
            value, parts = parts.path, urlsplit(parts.path)
        if "@" in parts.netloc:
            raise ValueError(
                "the repository's address holds a user name or a token; give https://host/owner/name and put the token "
                "into the forge's own setting"
            )
        if parts.scheme in {"http", "https"} and parts.hostname:
            return value
        if not parts.scheme and "://" not in value and "::" not in value:
            path = Path(value).expanduser()
            if path.is_absolute():
                return str(path)
        raise ValueError(f"expected https://host/owner/name or an absolute path, got {value!r}")

    @field_validator("protected_paths")
    @classmethod
    def _plain_globs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for glob in value:
            if not _GLOB.match(glob) or glob.startswith("/"):
                raise ValueError(f"expected a path or a glob inside the repository, got {glob!r}")
        return value

    def changed(self, named: Mapping[str, Any]) -> Project:
        """The project with some fields changed; all others, also those that were set elsewhere, stay.

        Args:
            named: The fields to change. An empty text or list takes a field away. A repository on another host has
                another forge: without one named, it is guessed anew.

        Raises:
            ValidationError: They don't fit.
        """
        kept = self.model_dump(exclude_unset=True)
        kept["created_at"] = self.created_at
        if _host_of(named.get("repository", self.repository)) != _host_of(self.repository):
            kept.pop("forge", None)
            kept.pop("forge_url", None)
        taken_away = {name for name, value in named.items() if value in ("", (), [])}
        return Project.model_validate(
            {name: value for name, value in {**kept, **named}.items() if name not in taken_away}
        )

    @model_validator(mode="after")
    def _no_submodule_of_itself(self) -> Project:
        if self.id in self.submodules:
            raise ValueError(f"project {self.id!r} can't be a submodule of itself")
        return self

    @model_validator(mode="after")
    def _local_is_a_path(self) -> Project:
        is_path = self.repository.startswith("/")
        if (self.forge is ForgeKind.LOCAL) is not is_path:
            raise ValueError(
                f"forge {self.forge.value!r} needs {'a path' if self.forge is ForgeKind.LOCAL else 'an https address'} "
                f"as repository, got {self.repository!r}"
            )
        return self


def _host_of(repository: str) -> str | None:
    return urlsplit(repository).hostname


class ProjectStore:
    """The registered projects, kept in Redis beside the jobs.

    Args:
        redis: A connected client.
        prefix: Start of the key: ``Corral.namespace``, so that platforms with prefixes of their own share nothing.
    """

    def __init__(self, redis: RedisCommands, *, prefix: str) -> None:
        self._redis = redis
        self._key = f"{prefix}:projects"

    async def add(self, project: Project, *, replace: bool = False) -> None:
        """Register a project.

        Args:
            project: What to keep.
            replace: Write over a project of the same id.

        Raises:
            ConfigurationError: The id is taken and ``replace`` is False.
            UnknownProject: One of its submodules is not registered.
        """
        await self.check(project)
        command = "HSET" if replace else "HSETNX"
        added = await self._redis.execute_command(command, self._key, project.id, project.model_dump_json())
        if not added and not replace:
            raise ConfigurationError(f"a project {project.id!r} is registered already; remove it first, or replace it")

    async def check(self, project: Project) -> None:
        """See that a project can be registered.

        Raises:
            UnknownProject: One of its submodules is not registered.
        """
        for submodule in project.submodules:
            await self.get(submodule)

    async def get(self, project_id: str) -> Project:
        """One project.

        Raises:
            UnknownProject: None of this id is registered.
        """
        found = await self._redis.execute_command("HGET", self._key, project_id)
        if found is None:
            raise UnknownProject(
                f"no project {project_id!r} is registered; add it with `corral project add {project_id} REPOSITORY`"
            )
        return Project.model_validate(json.loads(found))

    async def list(self) -> list[Project]:
        """All projects, by id."""
        found = await self._redis.execute_command("HVALS", self._key)
        projects = [Project.model_validate(json.loads(text(value))) for value in found]
        return sorted(projects, key=lambda project: project.id)

    async def remove(self, project_id: str) -> None:
        """Forget a project; its repository stays untouched, its mirror is a cache.

        Raises:
            UnknownProject: None of this id is registered.
        """
        if not await self._redis.execute_command("HDEL", self._key, project_id):
            raise UnknownProject(f"no project {project_id!r} is registered")
