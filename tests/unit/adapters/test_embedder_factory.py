from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from corral.adapters.embedder.factory import make_embedder
from corral.errors import ConfigurationError
from corral.settings import Settings

WEIGHT: dict[str, object] = {"embedder_fusion_weight": 1.25}


def settings(tmp_path: Path, **values: object) -> Settings:
    return Settings.model_validate({"data_dir": tmp_path, **values})


def test_the_default_is_the_static_one(tmp_path: Path) -> None:
    assert make_embedder(settings(tmp_path)).name.startswith("static-")


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"embedder": "openai:text-embedding-3-small"}, "text-embedding-3-small@1536"),
        ({"embedder": "voyage:voyage-code-3", "embedder_dimension": 256}, "voyage-code-3@256"),
        (
            {"embedder": "openai-compatible:m", "embedder_base_url": "http://127.0.0.1:1/v1", "embedder_dimension": 8},
            "m@8",
        ),
    ],
)
def test_services(tmp_path: Path, values: dict[str, object], name: str) -> None:
    made = make_embedder(settings(tmp_path, embedder_api_key=SecretStr("k"), **values))
    assert made.name == name
    made.close()


@pytest.mark.parametrize(
    "values",
    [{}, {"embedder": "openai:text-embedding-3-small", "embedder_api_key": SecretStr("k")}],
)
def test_a_measured_weight_takes_the_place_of_the_embedders_own(tmp_path: Path, values: dict[str, object]) -> None:
    usual, measured = (make_embedder(settings(tmp_path, **values, **more)) for more in ({}, WEIGHT))
    assert measured.fusion_weight == 1.25 != usual.fusion_weight
    assert measured.name == usual.name, "another weight must not make indexes anew"
    usual.close()
    measured.close()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"embedder": "magic"}, "CORRAL_EMBEDDER"),
        ({"embedder": "openai:"}, "CORRAL_EMBEDDER"),
        ({"embedder": "openai:text-embedding-3-small"}, "CORRAL_EMBEDDER_API_KEY"),
        ({"embedder": "openai-compatible:m"}, "CORRAL_EMBEDDER_BASE_URL"),
        ({"embedder": "openai-compatible:m", "embedder_base_url": "http://x/v1"}, "CORRAL_EMBEDDER_DIMENSION"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make_embedder(settings(tmp_path, **values))
