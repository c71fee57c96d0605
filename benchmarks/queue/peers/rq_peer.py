"""RQ with its SimpleWorker, which its documentation names for speed: one job at a time, no fork for each."""

from __future__ import annotations

from datetime import timedelta

import protocol
import tally
from redis import Redis
from rq import Queue, SimpleWorker

connection = Redis.from_url(tally.REDIS_URL)
queue = Queue(tally.QUEUE, connection=connection)


def noop(n: int, due: float, text: str) -> dict[str, int]:  # noqa: ARG001 - the payload
    return tally.job(n, due)


class Producer:
    def add(self, n: int, due: float, delay_s: float) -> None:
        if delay_s:
            queue.enqueue_in(timedelta(seconds=delay_s), "rq_peer.noop", n, due, protocol.TEXT, result_ttl=3600)
        else:
            queue.enqueue("rq_peer.noop", n, due, protocol.TEXT, result_ttl=3600)

    def add_bulk(self, numbers: list[int]) -> bool:
        queue.enqueue_many(
            [Queue.prepare_data("rq_peer.noop", (n, 0.0, protocol.TEXT), result_ttl=3600) for n in numbers]
        )
        return True


def worker() -> None:
    SimpleWorker([queue], connection=connection).work(logging_level="ERROR", with_scheduler=True)


if __name__ == "__main__":
    protocol.main(Producer, worker)
