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


#: What costs more than all of Corral's own modules: not paid before a Corral is made, or workers are started.
LATER = ("corral.settings", "multiprocessing", "pydantic_settings")

#: The payloads and results of the four job types: ``add_job`` needs them, job types of one's own don't.
MODELS = ("corral.jobs.payload",)

#: What only a few commands of the command line need.
FEW_COMMANDS = ("corral.wire.connection", "markdown_it", "opentelemetry", "pygments", "redis", "uvicorn")


@pytest.mark.parametrize(
    ("program", "unwanted"),
    [
        ("from corral import Corral", (*HEAVY, *LATER, *MODELS)),
        ("from corral import Corral, add_job", (*HEAVY, *LATER)),
        ("from corral import Corral, Job, JobType, add_job; Corral()", (*HEAVY, "multiprocessing")),
        ("import corral.interfaces.cli.app", FEW_COMMANDS),
    ],
)
def test_importing_loads_nothing_before_it_is_needed(program: str, unwanted: tuple[str, ...]) -> None:
    shown = f"import sys; {program}; print([name for name in {unwanted!r} if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", shown], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "[]"
