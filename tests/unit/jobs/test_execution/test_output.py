from __future__ import annotations

import asyncio

import pytest

from corral.jobs.test_execution.output import OutputLog, beside, harmless


async def collected(*chunks: bytes) -> list[str]:
    lines: list[str] = []

    async def take(batch: list[str]) -> None:
        lines.extend(batch)

    log = OutputLog(take)
    for chunk in chunks:
        log.write(chunk)
    await log.finish()
    return lines


async def test_lines_are_whole_whatever_the_pieces() -> None:
    assert await collected(b"on", b"e\ntw", b"o\n\xc3", b"\xa9 three") == ["one", "two", "é three"]


async def test_progress_bars_show_their_last_state() -> None:
    assert await collected(b"10%\r50%\r100%\r\ndone\n") == ["100%", "done"]


def test_control_sequences_are_removed() -> None:
    assert harmless("\x1b[2J\x1b[31mred\x1b[0m \x1b]0;evil\x07title\x00\u202e\ttab\n") == "red title\ttab\n"


async def test_a_flood_is_bounded_and_batched() -> None:
    batches: list[int] = []

    async def take(batch: list[str]) -> None:
        batches.append(len(batch))

    log = OutputLog(take)
    for _ in range(200):
        log.write(b"line\n" * 1000)
    await log.finish()
    assert sum(batches) == 10_000
    assert max(batches) <= 500
    assert log.tail().endswith("line\n")
    assert len(log.tail()) <= 32_000


async def test_a_line_without_end_is_bounded() -> None:
    lines = await collected(*[b"x" * 100_000] * 50)
    assert len(lines) == 1
    assert len(lines[0]) < 2100
    assert lines[0].endswith("more characters]")


async def test_an_error_of_the_pump_cancels_the_main_task() -> None:
    cancelled = asyncio.Event()

    async def pump() -> None:
        raise RuntimeError("lease lost")

    async def main() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(RuntimeError, match="lease lost"):
        await beside(pump(), main())
    assert cancelled.is_set()
