"""A model whose answers are kept in the response cache."""

from __future__ import annotations

import asyncio
import zlib

from corral.adapters.llm.packed_answer import pack, unpack
from corral.adapters.llm.port import Finish, LanguageModel, ModelAnswer, ModelRequest, ModelTraits, OnText
from corral.adapters.llm.response_cache import ResponseCache, unpacked


class CachedModel:
    """See the module."""

    def __init__(self, model: LanguageModel, cache: ResponseCache) -> None:
        self._model = model
        self._cache = cache
        self._flights: dict[str, asyncio.Future[ModelAnswer]] = {}

    @property
    def name(self) -> str:
        """The model's."""
        return self._model.name

    @property
    def traits(self) -> ModelTraits:
        """The model's."""
        return self._model.traits

    async def complete(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelAnswer:
        """Answer from the cache, or ask the model and keep a whole answer; see the port.

        Equal requests of this process that run at the same time share one flight and its failure too: a hundred
        of them make one call even when it fails.
        """
        name = self._model.name
        key = self._cache.key(name, request)
        while (flight := self._flights.get(key)) is not None:
            try:
                landed = await asyncio.shield(flight)
            except asyncio.CancelledError:
                if flight.cancelled() and not _being_cancelled():
                    continue  # the one who asked was cancelled, not we: ask again
                raise
            self._count_hit(landed)
            return await _told(landed.model_copy(update={"from_cache": True}), on_text)
        mine: asyncio.Future[ModelAnswer] = asyncio.get_running_loop().create_future()
        self._flights[key] = mine  # before anything is awaited, so that a hundred look it up once
        try:
            answer = await self._find(name, key, request, on_text)
        except asyncio.CancelledError:
            mine.cancel()
            raise
        except BaseException as error:
            mine.set_exception(error)
            mine.exception()  # seen: nobody else may be waiting
            raise
        else:
            mine.set_result(answer)
            return answer
        finally:
            del self._flights[key]

    async def close(self) -> None:
        """Close the model; the cache belongs to whoever made it."""
        await self._model.close()

    def _hit(self, raw: bytes) -> ModelAnswer | None:
        """The stored answer; None when nobody could ever read it, so that it is asked for again."""
        try:
            answer = unpack(unpacked(raw))
        except (ValueError, zlib.error):
            return None
        self._count_hit(answer)
        return answer

    def _count_hit(self, answer: ModelAnswer) -> None:
        usage = answer.usage
        self._cache.count_hit(self._model.name, tokens=usage.tokens, usd=usage.usd or 0.0)

    async def _find(self, name: str, key: str, request: ModelRequest, on_text: OnText | None) -> ModelAnswer:
        raw, away = None, False
        try:
            raw = await self._cache.raw(key)
        except Exception as error:  # noqa: BLE001 - see there
            self._cache.go_on_without(name, error)
            away = True
        if away:
            return await self._model.complete(request, on_text=on_text)
        answer = self._hit(raw) if raw is not None else None
        if answer is None:
            return await self._ask(name, key, request, on_text, unreadable=raw is not None)
        return answer if on_text is None else await _told(answer, on_text)

    async def _ask(
        self, name: str, key: str, request: ModelRequest, on_text: OnText | None, *, unreadable: bool
    ) -> ModelAnswer:
        if unreadable:
            await self._cache.forget(key)
        async with self._cache.landing(name, key) as landing:
            hit = self._hit(landing.raw) if landing.raw is not None else None
            if hit is not None:
                return await _told(hit, on_text)
            answer = await self._model.complete(request, on_text=on_text)
            if answer.finish in {Finish.STOP, Finish.TOOL_CALLS} and (answer.text or answer.tool_calls):
                landing.land(pack(answer))
            return answer


async def _told(answer: ModelAnswer, on_text: OnText | None) -> ModelAnswer:
    if on_text is not None and answer.text:
        await on_text(answer.text)
    return answer


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
