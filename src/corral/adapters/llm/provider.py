"""Hosted models and OpenAI-compatible servers, through one client library (pydantic-ai)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from pydantic_ai import exceptions as failures
from pydantic_ai.direct import model_request_stream
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models import Model, infer_model
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from corral.adapters.llm.port import Finish, ModelAnswer, ModelRequest, ModelTraits, OnText
from corral.adapters.llm.provider_errors import as_llm_failed
from corral.adapters.llm.provider_messages import answer_of, cost_of, native_messages, parameters_of, text_of
from corral.adapters.llm.surrogates import MendedStream
from corral.errors import LlmFailed, ModelUnavailable

_KEY_VARIABLES = {
    "openai": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "google": "GOOGLE_API_KEY (or GEMINI_API_KEY)",  # the library takes the first that is set
}


class ProviderModel:
    """One model behind the client library."""

    def __init__(
        self,
        model: Model[Any],
        *,
        name: str,
        traits: ModelTraits | None = None,
        idle_timeout: timedelta = timedelta(minutes=2),
        first_text_timeout: timedelta = timedelta(minutes=10),
        says_why_it_stops: bool = True,
    ) -> None:
        """Wrap ``model``.

        Args:
            model: The library's model object; a scripted one in tests.
            name: As in the settings.
            traits: What it can do; default from what the library knows about the model.
            idle_timeout: Longest silence between two pieces of an answer.
            first_text_timeout: Longest wait for the first piece.
            says_why_it_stops: Whether every whole answer says why it ended, as those of all providers do; without it,
                one that was cut off passes for a whole one.
        """
        self._model = model
        self._says_why_it_stops = says_why_it_stops
        self._name = name
        self._traits = traits or _traits_of(model)
        self._idle_timeout = idle_timeout
        self._first_text_timeout = first_text_timeout
        self._opening = asyncio.Lock()
        self._opened = False

    @property
    def name(self) -> str:
        """As in the settings."""
        return self._name

    @property
    def traits(self) -> ModelTraits:
        """What the model can do."""
        return self._traits

    async def complete(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelAnswer:
        """Answer one request, streaming; see the port."""
        try:
            response = await self._stream(request, on_text)
        except failures.ContentFilterError as error:
            return ModelAnswer(text=str(error), finish=Finish.REFUSAL, model=self._name)
        except failures.ModelAPIError as error:
            raise as_llm_failed(error, service=self._name) from error
        except failures.UnexpectedModelBehavior as error:
            raise self._failed(f"sent an answer that can't be read: {error}", "malformed_answer") from error
        except TimeoutError as error:
            silence_s = self._idle_timeout.total_seconds()
            raise self._failed(f"fell silent for {silence_s:g} s in the middle of an answer", "timed_out") from error
        except failures.UserError as error:
            raise ModelUnavailable(f"{self._name} can't be used: {error}") from error
        if response.finish_reason == "error":
            # Google's word for a tool call that its model wrote badly; what there is of the answer is no whole one.
            why = (response.provider_details or {}).get("finish_reason", "an error")
            raise self._failed(f"stopped because of {why}", "malformed_answer")
        if response.finish_reason is None and self._says_why_it_stops:
            raise self._failed("sent an answer that was cut off: nothing says why it ended", "malformed_answer")
        return answer_of(response, name=self._name)

    def _failed(self, why: str, reason: str) -> LlmFailed:
        return LlmFailed(f"{self._name} {why}", service=self._name, operation="complete", retryable=True, reason=reason)

    async def close(self) -> None:
        """Close the library's pooled connections."""
        async with self._opening:
            if self._opened:
                self._opened = False
                await self._model.__aexit__(None, None, None)

    async def _open(self) -> None:
        # Only what was entered is closed with it, whichever provider's client it is.
        async with self._opening:
            if not self._opened:
                await self._model.__aenter__()
                self._opened = True

    async def _stream(self, request: ModelRequest, on_text: OnText | None) -> ModelResponse:
        idle_s = self._idle_timeout.total_seconds()
        if not self._opened:
            await self._open()
        async with model_request_stream(
            self._model,
            native_messages(request),
            model_settings=self._settings(request),
            model_request_parameters=parameters_of(request),
        ) as stream:
            events = aiter(stream)
            text = MendedStream()
            first = True
            while True:
                # The deadline is between events, not over the answer: a long answer is fine, a silent one is not.
                limit_s = self._first_text_timeout.total_seconds() if first else idle_s
                try:
                    async with asyncio.timeout(limit_s):
                        event = await anext(events)
                except StopAsyncIteration:
                    break
                first = False
                if on_text is not None and (piece := text.feed(text_of(event))):
                    await on_text(piece)
            if on_text is not None and (rest := text.end()):
                await on_text(rest)
            return stream.get()

    def _settings(self, request: ModelRequest) -> ModelSettings:
        # No retries inside the client: whether and when to try again is the queue's decision, and a 429 must reach it.
        settings = ModelSettings(
            max_tokens=request.max_tokens,
            timeout=self._first_text_timeout.total_seconds(),
            max_retries=0,
        )
        if request.temperature is not None:
            settings["temperature"] = request.temperature
        if request.seed is not None:
            settings["seed"] = request.seed
        if request.stop:
            settings["stop_sequences"] = list(request.stop)
        # Only what the model takes: an unsupported setting would be a warning for each call.
        unsupported = self._model.unsupported_settings
        for name in unsupported & settings.keys():
            del settings[name]
        return settings


def open_provider_model(
    provider: str,
    model: str,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    traits: ModelTraits | None = None,
    name: str | None = None,
    idle_timeout: timedelta = timedelta(minutes=2),
    first_text_timeout: timedelta = timedelta(minutes=10),
) -> ProviderModel:
    """A model of one of the providers.

    Args:
        provider: ``openai``, ``anthropic``, ``google`` or ``openai-compatible``.
        model: The provider's name for it.
        base_url: Where an OpenAI-compatible server answers, ``…/v1`` included.
        api_key: Key of an OpenAI-compatible server; the others' keys come from their own variables.
        traits: What the model can do, when it is known better than the library knows.
        name: As in the settings; default ``provider:model``.
        idle_timeout: Longest silence between two pieces of an answer.
        first_text_timeout: Longest wait for the first piece.

    Raises:
        ModelUnavailable: The key is missing, or the library doesn't know the model.
    """
    name = name or f"{provider}:{model}"
    if provider == "openai-compatible":
        if not base_url:
            raise ModelUnavailable(f"{name!r} needs the server's address: set CORRAL_MODEL_BASE_URL=https://…/v1")
        native: Model[Any] = _compatible(model, base_url, api_key)
    else:
        native = _hosted(provider, model, name)
    return ProviderModel(
        native, name=name, traits=traits, idle_timeout=idle_timeout, first_text_timeout=first_text_timeout
    )


def _hosted(provider: str, model: str, name: str) -> Model[Any]:
    try:
        return infer_model(f"{provider}:{model}")
    except failures.UserError as error:
        variable = _KEY_VARIABLES.get(provider, f"{provider.upper()}_API_KEY")
        raise ModelUnavailable(f"{name!r} can't be opened; is {variable} set? ({error})") from error


def _compatible(model: str, base_url: str, api_key: str | None) -> Model[Any]:
    from pydantic_ai.models.openai import OpenAIChatModel  # noqa: PLC0415 - only this provider needs the openai extra
    from pydantic_ai.profiles.openai import OpenAIModelProfile  # noqa: PLC0415
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider  # noqa: PLC0415

    provider = OpenAICompatibleProvider("openai-compatible", base_url=base_url, api_key=api_key or "none")
    # A stream that ends without a finish reason was cut off; without this it would pass for a whole answer.
    profile = OpenAIModelProfile(openai_chat_streaming_requires_finish_reason=True)
    return OpenAIChatModel(model, provider=provider, profile=profile)


def _traits_of(model: Model[Any]) -> ModelTraits:
    window = model.context_window
    traits = ModelTraits(context_tokens=window) if window else ModelTraits()
    return traits.model_copy(update=_prices_of(model, traits.context_tokens))


def _prices_of(model: Model[Any], context_tokens: int) -> dict[str, float]:
    """What a token costs when the context is full; nothing when nobody knows."""

    def price(output_tokens: int) -> float | None:
        usage = RequestUsage(input_tokens=context_tokens, output_tokens=output_tokens)
        return cost_of(
            ModelResponse(
                parts=[],
                model_name=model.model_name,
                provider_name=model.system,
                provider_url=model.base_url,
                usage=usage,
            )
        )

    asked, answered = price(0), price(1000)
    if asked is None or answered is None:
        return {}
    return {
        "usd_per_input_token": asked / context_tokens,
        "usd_per_output_token": (answered - asked) / 1000,
    }
