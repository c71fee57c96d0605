"""dramatiq on Redis with its results middleware, one process."""

from __future__ import annotations

import sys

import dramatiq
import protocol
import tally
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

broker = RedisBroker(url=tally.REDIS_URL)
broker.add_middleware(Results(backend=RedisBackend(url=tally.REDIS_URL, use_namespace_prefix_keys=True)))
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=tally.QUEUE, store_results=True)
def noop(n: int, due: float, text: str) -> dict[str, int]:  # noqa: ARG001 - the payload
    return tally.job(n, due)


class Producer:
    def add(self, n: int, due: float, delay_s: float) -> None:
        noop.send_with_options(args=(n, due, protocol.TEXT), delay=round(delay_s * 1000) if delay_s else None)

    def add_bulk(self, _numbers: list[int]) -> bool:
        return False


def worker() -> None:
    from dramatiq.cli import main, make_argument_parser

    sys.argv = [
        *("dramatiq", "dramatiq_peer", "--processes", "1", "--threads", str(tally.CONCURRENCY)),
        *("--queues", tally.QUEUE, "--skip-logging"),
    ]
    main(make_argument_parser().parse_args())


if __name__ == "__main__":
    protocol.main(Producer, worker)
