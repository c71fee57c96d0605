"""Makes the forges that the settings set up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from corral.adapters.forge.local import LocalForge
from corral.adapters.forge.pacing import Pacer, RedisPacer
from corral.adapters.forge.port import Forge, Refused
from corral.adapters.forge.registry import ForgeFactory, Forges
from corral.errors import ConfigurationError, ExtraMissing
from corral.projects import ForgeKind
from corral.settings import Settings
from corral.wire.commands import RedisCommands

if TYPE_CHECKING:
    from corral.adapters.forge.github import TokenSource

_HALF_AN_APP: Final = (
    "a GitHub App needs CORRAL_GITHUB_APP_ID, CORRAL_GITHUB_APP_INSTALLATION_ID and CORRAL_GITHUB_APP_PRIVATE_KEY "
    "together; some are missing"
)


def make_forges(settings: Settings, redis: RedisCommands) -> Forges:
    """The local forge, and each hosted one that has a token.

    A hosted forge's client is imported when the first project needs it.

    Args:
        settings: Tokens and addresses.
        redis: Paces all workers together.

    Raises:
        ConfigurationError: A GitHub App is set up by halves.
    """
    app = (settings.github_app_id, settings.github_app_installation_id, settings.github_app_private_key)
    if any(part is not None for part in app) and any(part is None for part in app):
        raise ConfigurationError(_HALF_AN_APP)
    return Forges(_Setup(settings, redis).factories())


class _Setup:
    """Makes forges as the settings say.

    A token is good for one address only: a project that names another one must not be sent it.
    """

    def __init__(self, settings: Settings, redis: RedisCommands) -> None:
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
        tokens: TokenSource
        if settings.github_app_id is not None:
            tokens = self._app(address)
        else:
            tokens = PersonalToken(settings.github_token or SecretStr(""))
        return GitHubForge(tokens, api_url=address, pacer=self._pacer("github", address, tokens.account))

    def _app(self, address: str) -> TokenSource:
        with _extra():
            from corral.adapters.forge.github import APP_PERMISSIONS, AppTokens  # noqa: PLC0415  needs corral[forge]
        settings = self._settings
        app_id, installation = settings.github_app_id, settings.github_app_installation_id
        key = settings.github_app_private_key
        if app_id is None or installation is None or key is None:
            raise ConfigurationError(_HALF_AN_APP)
        return AppTokens(
            app_id=app_id,
            installation_id=installation,
            private_key=key,
            api_url=address,
            permissions={**APP_PERMISSIONS, **({"workflows": "write"} if settings.github_app_workflows else {})},
        )

    def _gitlab(self, url: str | None) -> Forge:
        with _extra():
            from corral.adapters.forge.gitlab import GitLabForge  # noqa: PLC0415  needs corral[forge]
        token = self._settings.gitlab_token or SecretStr("")
        address = _checked(ForgeKind.GITLAB, url, self._settings.gitlab_url)
        return GitLabForge(token, url=address, pacer=self._pacer("gitlab", address, _account(token)))

    def _gitea(self, url: str | None) -> Forge:
        with _extra():
            from corral.adapters.forge.gitea import GiteaForge  # noqa: PLC0415  needs corral[forge]
        token = self._settings.gitea_token or SecretStr("")
        address = _checked(ForgeKind.GITEA, url, self._settings.gitea_url or "")
        return GiteaForge(token, url=address, pacer=self._pacer("gitea", address, _account(token)))

    def _pacer(self, service: str, address: str, account: str) -> Pacer:
        return RedisPacer(
            self._redis,
            account=f"{urlsplit(address).hostname}:{account}",
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
