"""The embedder that the settings name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from corral.adapters.embedder.port import Embedder
from corral.errors import ConfigurationError
from corral.settings import Settings

if TYPE_CHECKING:
    from corral.adapters.embedder.api import ApiEmbedder
    from corral.adapters.embedder.minilm import MiniLmEmbedder
    from corral.adapters.embedder.static import StaticEmbedder

_ADDRESSES: Final = {"openai": "https://api.openai.com/v1", "voyage": "https://api.voyageai.com/v1"}
_DIMENSIONS: Final = {
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
    "voyage-code-3": 1024,
    "voyage-3.5": 1024,
    "voyage-3.5-lite": 1024,
}


def make_embedder(settings: Settings) -> Embedder:
    """Make it.

    Raises:
        ConfigurationError: ``embedder`` is none of the known forms, or something that it needs is not set.
        ExtraMissing: What it needs is not installed.
        ModelUnavailable: A model's file is missing.
    """
    embedder = _made(settings)
    if settings.embedder_fusion_weight is not None:
        embedder.fusion_weight = settings.embedder_fusion_weight
    return embedder


def _made(settings: Settings) -> StaticEmbedder | MiniLmEmbedder | ApiEmbedder:
    kind, _, model = settings.embedder.partition(":")
    if kind == "static" and not model:
        from corral.adapters.embedder.static import StaticEmbedder  # noqa: PLC0415 - optional: the ``index`` extra

        return StaticEmbedder()
    if kind == "minilm":
        from corral.adapters.embedder.minilm import MiniLmEmbedder  # noqa: PLC0415 - optional: the ``minilm`` extra

        folder = Path(model) if model else settings.data_dir / "models" / "minilm"
        return MiniLmEmbedder(folder / "model.onnx", folder / "tokenizer.json")
    if kind in {"openai", "voyage", "openai-compatible"} and model:
        return _service(settings, kind, model)
    raise ConfigurationError(
        "expected CORRAL_EMBEDDER as static, minilm, minilm:FOLDER, openai:MODEL, voyage:MODEL or "
        f"openai-compatible:MODEL, got {settings.embedder!r}"
    )


def _service(settings: Settings, kind: str, model: str) -> ApiEmbedder:
    from corral.adapters.embedder.api import ApiEmbedder, EmbeddingService  # noqa: PLC0415 - optional: ``index``

    address = settings.embedder_base_url or _ADDRESSES.get(kind)
    if address is None:
        raise ConfigurationError("set CORRAL_EMBEDDER_BASE_URL to the service's address, up to and with /v1")
    key = settings.embedder_api_key.get_secret_value() if settings.embedder_api_key else None
    if key is None and kind in _ADDRESSES:
        raise ConfigurationError(f"set CORRAL_EMBEDDER_API_KEY to the key of {kind!r}")
    dimension = settings.embedder_dimension or _DIMENSIONS.get(model)
    if dimension is None:
        raise ConfigurationError(f"set CORRAL_EMBEDDER_DIMENSION to the length of {model!r}'s vectors")
    service = EmbeddingService(
        model=model,
        base_url=address,
        api_key=key,
        dimension=dimension,
        voyage=kind == "voyage",
        choose_dimension=settings.embedder_dimension is not None and kind in _ADDRESSES,
    )
    return ApiEmbedder(service, cache=settings.data_dir / "embeddings.sqlite")
