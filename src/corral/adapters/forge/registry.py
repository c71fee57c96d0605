"""Which forge serves a project."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from corral.adapters.forge.local import LocalForge
from corral.adapters.forge.port import Forge
from corral.adapters.git import GitRemote
from corral.errors import AdapterError, ConfigurationError
from corral.projects import ForgeKind, Project

ForgeFactory = Callable[[str | None], Forge]
"""Makes a forge for an API address; None is the public one."""

_ADVICE: Final = {
    ForgeKind.GITHUB: "set GITHUB_TOKEN, or the App's id, installation and key",
    ForgeKind.GITLAB: "set GITLAB_TOKEN",
    ForgeKind.GITEA: "set GITEA_TOKEN and CORRAL_GITEA_URL",
}


class Forges:
    """Makes each forge once and gives it to whoever needs it; closes them all at the end.

    Args:
        factories: How each kind is made. ``local`` needs none.
    """

    def __init__(self, factories: Mapping[ForgeKind, ForgeFactory] | None = None) -> None:
        self._factories: dict[ForgeKind, ForgeFactory] = {
            ForgeKind.LOCAL: lambda _url: LocalForge(),
            **(factories or {}),
        }
        self._made: dict[tuple[ForgeKind, str | None], Forge] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def of(self, project: Project) -> Forge:
        """The forge that serves a project.

        Raises:
            ConfigurationError: It isn't set up; says what to set.
        """
        where = (project.forge, project.forge_url)
        if where not in self._made:
            factory = self._factories.get(project.forge)
            if factory is None:
                raise ConfigurationError(
                    f"project {project.id!r} is on {project.forge.value}, which is not set up: {_ADVICE[project.forge]}"
                )
            self._made[where] = factory(project.forge_url)
        return self._made[where]

    async def remote(self, project: Project) -> GitRemote:
        """How git reaches a project's repository; what ``Workspaces`` takes as ``remote_of``.

        Without a token set up, a repository is reached anonymously, which is enough to read a public one.
        """
        try:
            forge = self.of(project)
        except ConfigurationError:
            return GitRemote(project.repository)
        return await forge.remote(project.repository)

    async def aclose(self) -> None:
        """Give all connections back."""
        made, self._made = list(self._made.values()), {}
        for forge in made:
            with suppress(AdapterError, OSError):
                await forge.aclose()
