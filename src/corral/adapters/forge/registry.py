"""Which forge serves a project."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from pydantic import SecretStr

from corral.adapters.forge.local import LocalForge
from corral.adapters.forge.pacing import Pacer, RedisPacer, Unpaced
from corral.adapters.forge.port import Forge, Refused
from corral.adapters.git import GitRemote
from corral.errors import AdapterError, ConfigurationError, ExtraMissing
from corral.projects import ForgeKind, Project
from corral.settings import Settings
from corral.wire.commands import RedisCommands

if TYPE_CHECKING:
    from corral.adapters.forge.github import TokenSource

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

    @classmethod
    def from_settings(cls, settings: Settings, redis: RedisCommands | None = None) -> Forges:
        """The forges that the settings have tokens for, and the local one.

        Args:
            settings: Tokens and addresses.
            redis: Paces all workers together; None: nothing is paced.
        """
        return cls(_Setup(settings, redis).factories())

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


class _Setup:
    """Makes forges as the settings say.

    A token is good for one address only: a project that names another one must not be sent it.
    """

    def __init__(self, settings: Settings, redis: RedisCommands | None) -> None:
        self._settings = settings
        self._redis = redis

    def factories(self) -> dict[ForgeKind, ForgeFactory]:
        """How each forge is made that there is a token for."""
        settings = self._settings
        made: dict[ForgeKind, ForgeFactory] = {ForgeKind.LOCAL: self._local}
        if settings.github_token is not None or settings.github_app_id is not None:
            made[ForgeKind.GITHUB] = self._github
        if settings.gitlab_token is not None:
            made[ForgeKind.GITLAB] = self._gitlab
        if settings.gitea_token is not None and settings.gitea_url is not None:
            made[ForgeKind.GITEA] = self._gitea
        return made

    def _local(self, _url: str | None) -> Forge:
        return LocalForge(committer=self._settings.commit_author)

    def _github(self, url: str | None) -> Forge:
        with _extra():
            from corral.adapters.forge.github import GitHubForge, PersonalToken  # noqa: PLC0415  needs corral[forge]
        settings = self._settings
        address = _checked(ForgeKind.GITHUB, url, settings.github_url)
        tokens = self._app(address) if settings.github_token is None else PersonalToken(settings.github_token)
        return GitHubForge(tokens, api_url=address, pacer=self._pacer("github", tokens.account))

    def _app(self, address: str) -> TokenSource:
        with _extra():
            from corral.adapters.forge.github import AppTokens  # noqa: PLC0415  needs corral[forge]
        settings = self._settings
        app_id, installation, key = (
            settings.github_app_id,
            settings.github_app_installation_id,
            settings.github_app_private_key,
        )
        if app_id is None or installation is None or key is None:
            raise ConfigurationError(
                "a GitHub App needs github_app_id, github_app_installation_id and github_app_private_key together"
            )
        return AppTokens(app_id=app_id, installation_id=installation, private_key=key, api_url=address)

    def _gitlab(self, url: str | None) -> Forge:
        with _extra():
            from corral.adapters.forge.gitlab import GitLabForge  # noqa: PLC0415  needs corral[forge]
        token = self._settings.gitlab_token or SecretStr("")
        address = _checked(ForgeKind.GITLAB, url, self._settings.gitlab_url)
        return GitLabForge(token, url=address, pacer=self._pacer("gitlab", _account(token)))

    def _gitea(self, url: str | None) -> Forge:
        with _extra():
            from corral.adapters.forge.gitea import GiteaForge  # noqa: PLC0415  needs corral[forge]
        token = self._settings.gitea_token or SecretStr("")
        address = _checked(ForgeKind.GITEA, url, self._settings.gitea_url or "")
        return GiteaForge(token, url=address, pacer=self._pacer("gitea", _account(token)))

    def _pacer(self, service: str, account: str) -> Pacer:
        if self._redis is None:
            return Unpaced()
        return RedisPacer(
            self._redis,
            account=f"{service}:{account}",
            refused=Refused(service),
            interval=self._settings.forge_write_interval,
            per_hour=self._settings.forge_writes_per_hour,
        )


@contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ExtraMissing(
            f"this forge needs an extra: pip install 'corral[forge]' ({error.name} is missing)"
        ) from error


def _checked(kind: ForgeKind, asked: str | None, have: str) -> str:
    if asked is not None and asked.rstrip("/") != have.rstrip("/"):
        raise ConfigurationError(
            f"the token for {kind.value} is set up for {have}, and the project's forge_url is {asked}"
        )
    return have


def _account(token: SecretStr) -> str:
    return sha256(token.get_secret_value().encode()).hexdigest()[:12]
