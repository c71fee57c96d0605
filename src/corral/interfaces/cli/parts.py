"""The parts outside, tried from the command line: sandbox, model, index, forge.

Each is imported where it is used: they are extras, and some take seconds to load.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable
from typing import Any

from corral.client import Corral
from corral.errors import ExtraMissing, ModelUnavailable
from corral.interfaces.cli.doctor.finding import Finding, Verdict
from corral.settings import Settings

_FORGE_TIMEOUT_S = 10.0


async def try_sandbox(settings: Settings) -> str:
    """Run something harmless in the sandbox.

    Returns:
        What it is and which version.

    Raises:
        SandboxUnavailable: It can't run here.
    """
    from corral.adapters.sandbox.factory import make_sandbox  # noqa: PLC0415 - see the module

    sandbox = make_sandbox(settings)
    return f"{sandbox.name} {await sandbox.check()}"


def local_model_missing(settings: Settings) -> bool:
    """Whether the local model is asked for and still has to be downloaded."""
    if settings.model != "local" or settings.local_model_path is not None:
        return False
    try:
        from corral.adapters.llm.local_files import is_present  # noqa: PLC0415 - see the module
    except ModuleNotFoundError:
        return False
    return not is_present(settings.data_dir)


async def try_model(settings: Settings) -> str:
    """Whether the model can be used: its extra, its key, its file. Costs nothing and asks no provider.

    Raises:
        ModelUnavailable: It can't.
        ExtraMissing: The client library, or the local model's, is not installed.
    """
    from corral.adapters.llm.choose import open_model  # noqa: PLC0415 - see the module

    # In a thread: the client library takes seconds to load, and a spinner turns meanwhile.
    await asyncio.to_thread(open_model, settings.model, settings)
    if settings.model != "local":
        return f"{settings.model}, with a key"
    if importlib.util.find_spec("xllamacpp") is None:
        raise ExtraMissing("the local model needs an extra: pip install 'corral[local-model]'")
    if settings.local_model_path is not None:
        if not settings.local_model_path.is_file():
            raise ModelUnavailable(
                f"expected a GGUF file at CORRAL_LOCAL_MODEL_PATH, {settings.local_model_path} is none"
            )
        return f"local, {settings.local_model_path}"
    if local_model_missing(settings):
        return "local, not downloaded yet (1.1 GB, with the first job or `corral demo`)"
    return "local, Qwen2.5-Coder-1.5B-Instruct"


async def prepare_model(settings: Settings, say: Callable[[str], None]) -> str:
    """Have the model ready, downloading the local one when it is missing.

    Raises:
        ModelUnavailable: It can't be used here.
        LlmFailed: The download failed.
    """
    if local_model_missing(settings):
        from corral.adapters.llm.local_files import ensure_model  # noqa: PLC0415 - see the module

        async def tell(line: str) -> None:
            say(line)

        await ensure_model(settings.data_dir, on_progress=tell)
    return await try_model(settings)


async def try_index(settings: Settings) -> str:
    """Whether projects can be indexed and searched here, by the embedder that the settings name.

    Raises:
        ExtraMissing: The index's extra is not installed, or the embedder's.
        ConfigurationError: There is no such embedder, or something that it needs is not set.
        ModelUnavailable: A file of its model is missing.
    """
    missing = [
        name for name in ("tantivy", "tree_sitter_language_pack", "numpy") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ExtraMissing(f"the index needs an extra ({', '.join(missing)} missing): pip install 'corral[index]'")
    from corral.adapters.embedder.factory import make_embedder  # noqa: PLC0415 - see the module

    (await asyncio.to_thread(make_embedder, settings)).close()
    return f"in {settings.data_dir}, by the embedder {settings.embedder}"


async def try_index_store(settings: Settings) -> str:
    """Whether indexes can be kept where the settings say: a bucket is written to, and cleaned again.

    Raises:
        ConfigurationError: The address is none, or the server can't keep two publishers apart.
        SearchFailed: The server can't be reached, or refuses.
        ExtraMissing: Its client is not installed.
    """
    if settings.index_store == "local":
        return "on this machine alone"
    from corral.adapters.index.factory import make_shared_store  # noqa: PLC0415 - an extra

    def ask() -> str:
        store = make_shared_store(settings)
        store.check()
        use = store.copies_use()
        return (
            f"{settings.index_store} takes conditional writes; copies here: {use.indexes}, "
            f"{use.used_bytes / 1e6:,.0f} of {use.limit_bytes / 1e6:,.0f} MB"
        )

    return await asyncio.to_thread(ask)


async def try_forge(settings: Settings) -> Finding:
    """Whether pull requests can be opened on GitHub: asks it once, when there is a token."""
    if settings.github_token is None:
        return Finding(
            "forge",
            Verdict.NOTE,
            "no GITHUB_TOKEN: pull requests on local repositories only",
            "set GITHUB_TOKEN to open them on GitHub",
        )
    import httpx  # noqa: PLC0415 - see the module

    url = settings.github_url
    headers = {"Authorization": f"Bearer {settings.github_token.get_secret_value()}"}
    try:
        async with httpx.AsyncClient(timeout=_FORGE_TIMEOUT_S) as client:
            answer = await client.get(f"{url.rstrip('/')}/rate_limit", headers=headers)
    except httpx.HTTPError as error:
        why = str(error) or type(error).__name__
        mend = "check CORRAL_GITHUB_URL and the network"
        return Finding("forge", Verdict.WARNING, f"{url} can't be reached: {why}", mend)
    return judge_token(answer.status_code, answer.headers.get("x-oauth-scopes"))


def judge_token(status: int, scopes: str | None) -> Finding:
    """What GitHub's answer says of a token.

    Args:
        status: Of the answer.
        scopes: Its ``X-OAuth-Scopes``; None with fine-grained tokens and those of Apps.
    """
    if status in {401, 403}:
        return Finding(
            "forge", Verdict.FAULT, f"GitHub refused the token ({status})", "make a new one, set GITHUB_TOKEN"
        )
    if scopes is None:
        detail = "GitHub took the token; it doesn't tell whether that allows writing contents and pull requests"
        return Finding("forge", Verdict.OK, detail)
    if not {"repo", "public_repo"} & {scope.strip() for scope in scopes.split(",")}:
        detail = f"the GitHub token's scopes ({scopes or 'none'}) allow no push"
        return Finding("forge", Verdict.FAULT, detail, "give it the scope 'repo'")
    return Finding("forge", Verdict.OK, f"GitHub took the token; scopes: {scopes}")


def code_search(corral: Corral) -> Any:
    """What answers code searches; None when the index's extra is not installed."""
    return None if importlib.util.find_spec("tantivy") is None else corral.parts.code_search
