"""A plain script, no ``async``: make a repository searchable, and search it.

    python examples/plain_script.py PATH_OF_A_GIT_REPOSITORY 'where are times parsed'

It adds an indexing job and waits for it; a worker (``corral worker``) has to run somewhere.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from corral import IndexingResult, JobType, sync


def main(repository: Path, query: str) -> None:
    project = repository.name
    # Registering is a command; a platform would do it where its users connect a repository.
    command = [sys.executable, "-m", "corral", "project", "add", project, str(repository), "--replace"]
    subprocess.run(command, check=True)

    job = sync.add_job(JobType.CODEBASE_INDEXING, {"projectId": project, "userId": "script"})
    index: IndexingResult = sync.wait_for_result(job, timeout=timedelta(minutes=5))
    print(f"{index.files} files, {index.chunks} chunks in {index.seconds:.1f} s")

    stats = sync.get_queue_stats(JobType.CODEBASE_INDEXING)
    print(f"{stats.job_type}: {stats.completed} completed, {stats.failed} failed")
    subprocess.run([sys.executable, "-m", "corral", "search", project, query, "--limit", "3"], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2])
