"""How the queue says no: full, too long, stopping, or broken. Always with the way out."""

from __future__ import annotations

import math

from decoder_service.settings import DecoderSettings
from shared.errors import Broken, InvalidRequest, Overloaded, Unavailable
from shared.wire import DecodeRequest


def overloaded(
    settings: DecoderSettings,
    waiting: int,
    tokens: int,
    more: int,
    more_tokens: int,
    seconds_per_token: float,
) -> Overloaded:
    """Return the error of a full queue; it says when what waits now should be done.

    waiting, tokens     messages that wait or run, and their tokens
    more, more_tokens   those of the refused request
    """
    wait_s = min(60, max(1, math.ceil(tokens * seconds_per_token)))
    return Overloaded(
        f"{waiting} messages of {tokens} tokens are waiting; {more} more of {more_tokens} are over "
        f"DECODER_QUEUE_MESSAGES={settings.queue_messages} or DECODER_QUEUE_TOKENS={settings.queue_tokens}",
        hint=f"repeat the request in {wait_s} s",
        retry_after_s=wait_s,
    )


def stopped() -> Unavailable:
    """Return the error of work that a stopping service did not do."""
    return Unavailable("the service stopped before it did this", hint="repeat the request", retry_after_s=1)


def broken(error: Exception) -> Broken:
    """Return the error of work that failed for a reason nobody foresaw."""
    return Broken(f"decoding failed: {type(error).__name__}", hint="see the decoder's log")


def check_context(
    request: DecodeRequest, prompts: dict[str, tuple[int, ...]], context_tokens: int | None
) -> None:
    """Raise InvalidRequest, naming the first message whose prompt and program exceed the model's context."""
    if context_tokens is None:
        return
    for index, message in enumerate(request.messages):
        tokens = len(prompts.get(message, ()))
        over = tokens + request.max_new_tokens - context_tokens
        if over > 0:
            raise InvalidRequest(
                f"messages[{index}]: its prompt of {tokens} tokens and max_new_tokens="
                f"{request.max_new_tokens} are {over} over the model's context of {context_tokens}",
                hint="send a shorter message or lower max_new_tokens",
                field=f"messages[{index}]",
            )
