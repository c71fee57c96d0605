"""A FastAPI server with the workers in its own event loop.

    uvicorn examples.fastapi_server:app

    curl -X POST localhost:8000/tasks -H 'content-type: application/json' \
         -d '{"task_id": "1", "project_id": "demo", "prompt": "Add a --verbose option"}'
    curl localhost:8000/tasks/1

One process does all of it here. For several machines, leave the workers out and run ``corral worker`` elsewhere.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from corral import (
    JobNotFound,
    JobPriority,
    add_job,
    disconnect_redis,
    get_job_status,
    get_queue_stats,
    initialize_workers,
    shutdown_queues,
)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Start the workers with the server; on SIGTERM they finish what they are at."""
    await initialize_workers()
    yield
    await shutdown_queues()
    await disconnect_redis()


app = FastAPI(title="A coding platform", lifespan=lifespan)


class Task(BaseModel):
    """What a user asks for."""

    task_id: str
    project_id: str
    prompt: str


@app.post("/tasks", status_code=201)
async def create_task(task: Task) -> dict[str, str]:
    """Start a pipeline: index, generate, test, open a pull request."""
    # A payload that doesn't fit raises PayloadInvalid, before anything reaches Redis.
    data = {**task.model_dump(), "user_id": "somebody"}
    # An id of one's own makes a repeated request one job.
    job = await add_job("pipeline", data, job_id=f"task-{task.task_id}", priority=JobPriority.HIGH)
    return {"job_id": job.id}


@app.get("/tasks/{task_id}")
async def show_task(task_id: str) -> dict[str, Any]:
    """How far it is."""
    try:
        status = await get_job_status("pipeline", f"task-{task_id}")
    except JobNotFound as error:
        raise HTTPException(404, "no such task") from error
    return {"state": status.state, "progress": status.progress, "error": status.error}


@app.get("/queue")
async def show_queue() -> dict[str, Any]:
    """How much there is to do."""
    stats = await get_queue_stats("pipeline")
    return {"waiting": stats.waiting, "active": stats.active, "failed": stats.failed}
