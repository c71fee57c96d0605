"""Celery on Redis with its Redis result backend; the gevent pool, which its guide recommends for waiting work."""

from __future__ import annotations

import protocol
import tally
from celery import Celery

app = Celery("bench", broker=tally.REDIS_URL, backend=tally.REDIS_URL)
app.conf.update(
    task_default_queue=tally.QUEUE, worker_hijack_root_logger=False, broker_connection_retry_on_startup=True
)


@app.task(name="noop")
def noop(n: int, due: float, text: str) -> dict[str, int]:  # noqa: ARG001 - the payload
    return tally.job(n, due)


class Producer:
    def add(self, n: int, due: float, delay_s: float) -> None:
        noop.apply_async(args=(n, due, protocol.TEXT), countdown=delay_s or None)

    def add_bulk(self, _numbers: list[int]) -> bool:
        return False


def worker() -> None:
    app.worker_main(
        [
            "worker",
            "--pool",
            "gevent",
            "--concurrency",
            str(tally.CONCURRENCY),
            "--loglevel",
            "ERROR",
            "--queues",
            tally.QUEUE,
        ]
    )


if __name__ == "__main__":
    import sys

    if sys.argv[1] == "worker":
        from gevent import monkey

        monkey.patch_all()
    import celery_peer

    protocol.main(celery_peer.Producer, celery_peer.worker)
