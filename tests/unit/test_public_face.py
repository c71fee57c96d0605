"""The public face: every name is there, sorted, and importing it stays cheap."""

from __future__ import annotations

import subprocess
import sys

import pytest

import corral

#: What only one job type or interface needs, and what must not be paid for by a program that adds jobs.
HEAVY = (
    "anthropic", "bullmq", "fastapi", "githubkit", "google", "hypothesis", "mcp", "numpy", "openai", "pydantic_ai",
    "redis", "rich", "tantivy", "tree_sitter", "typer", "uvicorn", "xllamacpp",
)  # fmt: skip


def test_names_are_sorted_and_each_is_there() -> None:
    assert list(corral.__all__) == sorted(corral.__all__)
    for name in corral.__all__:
        assert getattr(corral, name) is not None


def test_names_of_the_quick_reference_are_public() -> None:
    wanted = {
        "JobPriority", "JobType", "add_job", "clean_queue", "disconnect_redis", "get_job_status", "get_queue_stats",
        "initialize_workers", "pause_queue", "redis", "resume_queue", "shutdown_queues",
    }  # fmt: skip
    assert wanted <= set(corral.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'add_jbo'"):
        corral.add_jbo  # noqa: B018 - that it fails is the point


def test_importing_the_object_loads_nothing_heavy() -> None:
    program = (
        "import sys; from corral import Corral, Job, JobType, add_job; Corral();"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "[]"
