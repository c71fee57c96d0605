"""huey on Redis with greenlet workers, which its guide recommends for waiting work; results stored (its default)."""

from __future__ import annotations

import sys

if sys.argv[1] == "worker":
    from gevent import monkey

    monkey.patch_all()

import protocol
import tally
from huey import RedisHuey

huey = RedisHuey(tally.QUEUE, url=tally.REDIS_URL, clean_name=False)


@huey.task(name="noop")
def noop(n: int, due: float, text: str) -> dict[str, int]:  # noqa: ARG001 - the payload
    return tally.job(n, due)


class Producer:
    def add(self, n: int, due: float, delay_s: float) -> None:
        if delay_s:
            noop.schedule(args=(n, due, protocol.TEXT), delay=delay_s)
        else:
            noop(n, due, protocol.TEXT)

    def add_bulk(self, _numbers: list[int]) -> bool:
        return False


def worker() -> None:
    huey.create_consumer(workers=tally.CONCURRENCY, worker_type="greenlet", graceful_signal="TERM").run()


if __name__ == "__main__":
    protocol.main(Producer, worker)
