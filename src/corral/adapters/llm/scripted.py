"""The test double: a model that says what a test has written down."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from corral.adapters.llm.port import ModelAnswer, ModelRequest, ModelTraits, OnText

Script = ModelAnswer | str | BaseException | Callable[[ModelRequest], ModelAnswer | str]
"""One answer: whole, only its text, an error to raise, or worked out from the question."""


class ScriptedModel:
    """Gives its answers one after the other, and keeps what it was asked.

    Example::

        model = ScriptedModel(["first answer", LlmFailed(...), lambda request: "worked out"])
    """

    def __init__(self, answers: Iterable[Script], *, name: str = "scripted", traits: ModelTraits | None = None) -> None:
        """Write the script.

        Args:
            answers: In order; asking once more than there are is an ``AssertionError``.
            name: As in the settings.
            traits: What it can do; default tools, and a large context.
        """
        self._answers: Iterator[Script] = iter(answers)
        self._name = name
        self._traits = traits or ModelTraits()
        #: Every question, in order.
        self.requests: list[ModelRequest] = []
        #: Whether ``close`` was called.
        self.closed = False

    @property
    def name(self) -> str:
        """As given."""
        return self._name

    @property
    def traits(self) -> ModelTraits:
        """As given."""
        return self._traits

    async def complete(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelAnswer:
        """The script's next answer."""
        self.requests.append(request)
        answer = next(self._answers, None)
        if answer is None:
            raise AssertionError(f"the script has no answer number {len(self.requests)}")
        if isinstance(answer, BaseException):
            raise answer
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, str):
            answer = ModelAnswer(text=answer)
        if on_text is not None and answer.text:
            await on_text(answer.text)
        return answer if answer.model else answer.model_copy(update={"model": self._name})

    async def close(self) -> None:
        """Remember it."""
        self.closed = True
