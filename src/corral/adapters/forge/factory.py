"""Makes the forges that the settings set up."""

from __future__ import annotations

from urllib.parse import urlsplit

from corral.adapters.forge.pacing import Pacer, RedisPacer
from corral.adapters.forge.port import Forge, Refused
from corral.adapters.forge.registry import ForgeFactory, Forges
from corral.errors import ConfigurationError, ExtraMissing
from corral.projects import ForgeKind
from corral.settings import Settings
from corral.wire.commands import RedisCommands


def make_forges(settings: Settings, redis: RedisCommands) -> Forges:
    """The local forge, and each hosted one that has a token.

    A hosted forge's client is imported when the first project needs it.

    Raises:
        ConfigurationError: A GitHub App is set up by halves.
    """
    factories: dict[ForgeKind, ForgeFactory] = {}
    app = (settings.github_app_id, settings.github_app_installation_id, settings.github_app_private_key)
    if any(app) and not all(app):
        raise ConfigurationError(
            "A GitHub App needs all of CORRAL_GITHUB_APP_ID, CORRAL_GITHUB_APP_INSTALLATION_ID and "
            "CORRAL_GITHUB_APP_PRIVATE_KEY; some are missing."
        )
    if all(app) or settings.github_token is not None:
        factories[ForgeKind.GITHUB] = lambda url: _github(settings, redis, url)
    return Forges(factories)


def _github(settings: Settings, redis: RedisCommands, url: str | None) -> Forge:
    try:
        from corral.adapters.forge.github import (  # noqa: PLC0415 - heavy, and an extra
            AppTokens,
            GitHubForge,
            PersonalToken,
            TokenSource,
        )
    except ImportError as error:
        raise ExtraMissing("GitHub needs an extra: pip install 'corral[forge]'") from error
    address = url or settings.github_url
    tokens: TokenSource
    if settings.github_app_id and settings.github_app_installation_id and settings.github_app_private_key:
        tokens = AppTokens(
            app_id=settings.github_app_id,
            installation_id=settings.github_app_installation_id,
            private_key=settings.github_app_private_key,
            api_url=address,
        )
    elif settings.github_token is not None:
        tokens = PersonalToken(settings.github_token)
    else:
        raise ConfigurationError("GitHub is not set up: set GITHUB_TOKEN, or the App's id, installation and key.")
    return GitHubForge(tokens, api_url=address, pacer=_pacer(settings, redis, "github", address, tokens.account))


def _pacer(settings: Settings, redis: RedisCommands, service: str, address: str, account: str) -> Pacer:
    return RedisPacer(
        redis,
        account=f"{urlsplit(address).hostname}:{account}",
        refused=Refused(service),
        interval=settings.forge_write_interval,
        per_hour=settings.forge_writes_per_hour,
    )
