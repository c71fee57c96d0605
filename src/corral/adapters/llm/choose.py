"""From a setting such as ``anthropic:NAME`` to a model that answers."""

from __future__ import annotations

import importlib.util

from corral.adapters.llm.local_files import OnProgress
from corral.adapters.llm.local_model import LocalModel
from corral.adapters.llm.port import LanguageModel
from corral.errors import ExtraMissing, ModelUnavailable
from corral.settings import Settings

PROVIDERS = ("openai", "anthropic", "google", "openai-compatible")


def open_model(name: str, settings: Settings, *, on_progress: OnProgress | None = None) -> LanguageModel:
    """The model that ``name`` means. Importing the client library takes seconds: call it in a thread.

    Args:
        name: ``local``, or ``PROVIDER:NAME`` of one of ``PROVIDERS``.
        settings: Keys, addresses and folders.
        on_progress: Gets a line when the local model is downloaded or started.

    Raises:
        ModelUnavailable: The name is not one of these, or its key or address is missing.
        ExtraMissing: The client library is not installed.
    """
    provider, _, model = name.partition(":")
    if name != "local" and (provider not in PROVIDERS or not model):
        raise ModelUnavailable(
            f"expected a model such as local, {', '.join(f'{one}:NAME' for one in PROVIDERS)}; got {name!r}"
        )
    if importlib.util.find_spec("pydantic_ai") is None:
        raise ExtraMissing("models need an extra: pip install 'corral[llm]'")
    if name == "local":
        return LocalModel(data_dir=settings.data_dir, path=settings.local_model_path, on_progress=on_progress)
    from corral.adapters.llm.provider import open_provider_model  # noqa: PLC0415 - heavy

    key = settings.model_api_key.get_secret_value() if settings.model_api_key is not None else None
    return open_provider_model(provider, model, base_url=settings.model_base_url, api_key=key)
