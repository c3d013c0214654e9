"""TGI's published protocol (docs/openapi.json of version 3) as strict types, and a server that holds to it.

TGI itself needs a GPU image. This one checks every request against the schema, refuses what the schema
does not know, and answers with the fields the schema requires.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class GenerateParameters(Strict):
    adapter_id: str | None = None
    best_of: int | None = Field(None, gt=0)
    decoder_input_details: bool = False
    details: bool = True
    do_sample: bool = False
    frequency_penalty: float | None = Field(None, gt=-2)
    grammar: dict[str, Any] | None = None
    max_new_tokens: int | None = Field(100, ge=0)
    repetition_penalty: float | None = Field(None, gt=0)
    return_full_text: bool | None = None
    seed: int | None = Field(None, gt=0)
    stop: list[str] = Field([], max_length=4)
    temperature: float | None = Field(None, gt=0)
    top_k: int | None = Field(None, gt=0)
    top_n_tokens: int | None = Field(None, gt=0)
    top_p: float | None = Field(None, gt=0, le=1)
    truncate: int | None = Field(None, ge=0)
    typical_p: float | None = Field(None, gt=0, le=1)
    watermark: bool = False


class GenerateRequest(Strict):
    inputs: str
    parameters: GenerateParameters = GenerateParameters()


def make_server() -> FastAPI:
    """A server that answers with its prompt's last words; app.state.seen holds requests and their headers."""
    app = FastAPI()
    app.state.seen = []

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return problem(422, "validation", str(error.errors()[0]))

    @app.get("/info")
    async def info() -> dict[str, Any]:
        return {
            "model_id": "some/model", "model_sha": "abc123", "max_concurrent_requests": 128,
            "max_best_of": 2, "max_stop_sequences": 4, "max_input_tokens": 900, "max_total_tokens": 1000,
            "validation_workers": 2, "max_client_batch_size": 4, "router": "text-generation-router",
            "version": "3.3.6",
        }  # fmt: skip

    @app.post("/generate", response_model=None)
    async def generate(body: GenerateRequest, request: Request) -> dict[str, Any] | JSONResponse:
        app.state.seen.append((body, dict(request.headers)))
        message = body.inputs.partition("# Message\n")[2].partition("\n\n# Python\n")[0]
        if message == "too long":
            return problem(
                422, "validation", "`inputs` tokens + `max_new_tokens` must be <= 1000. Given: 1200"
            )
        if message == "busy":
            return problem(429, "overloaded", "Model is overloaded")
        if message == "broken":
            return problem(424, "generation", "Request failed during generation: CUDA out of memory")
        if message == "moved":
            return JSONResponse({}, status_code=307, headers={"location": app.state.elsewhere})
        text = f"```python\n{message}\n```"
        tokens = [{"id": 1, "text": text, "logprob": -0.1, "special": False}]
        reason = "length" if body.parameters.max_new_tokens == 1 else "eos_token"
        details = {
            "finish_reason": reason,
            "generated_tokens": 7,
            "seed": None,
            "prefill": [],
            "tokens": tokens,
        }
        return {"generated_text": text, "details": details}

    return app


def problem(status: int, kind: str, text: str) -> JSONResponse:
    return JSONResponse({"error": text, "error_type": kind}, status_code=status)
