"""What the decoder reads from its environment: DECODER_*, once, at the start."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from shared.service import ServiceSettings


class DecoderSettings(ServiceSettings):
    """The decoder's settings beside those every service has (host, port, token, ...)."""

    model_config = SettingsConfigDict(env_prefix="DECODER_")

    port: int = Field(8001, ge=0, le=65535, description="port to listen on; 0 takes a free one and logs it")
    engine: Literal["hf", "echo", "remote"] = Field(
        "hf", description="hf: a model here; remote: a server elsewhere; echo: the message is the program"
    )
    model: str | None = Field(
        None, description="model folder or hub name; unset: the starter generator. remote: its name there"
    )
    revision: str | None = Field(None, description="branch, tag or commit of a model on the hub")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d{1,3})?)$", description="where it runs")
    device_map: Literal["none", "auto", "balanced", "balanced_low_0", "sequential"] = Field(
        "none", description="how accelerate spreads a model over all GPUs; none: it is on one device"
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field("auto", description="number format")
    quantization: Literal["auto", "none", "nf4", "int8"] = Field("auto", description="of the weights")
    few_shot: Path | None = Field(None, description="JSONL file of {message, program}: earlier turns")
    threads: int = Field(
        1, ge=1, le=1024, description="CPU threads; two services that spin on two cores crawl"
    )
    max_batch: int = Field(128, ge=1, le=1000, description="rows the model continues at a time")
    max_batch_tokens: int = Field(
        131_072, ge=64, description="rows x (longest prompt + max_new_tokens) of one batch, at most"
    )
    max_wait_ms: float = Field(
        5.0, ge=0, le=10_000, description="how long a batch that is not full waits for other requests"
    )
    cache_size: int = Field(20_000, ge=0, le=10_000_000, description="programs kept for repeats; 0: none")
    cache_file: Path | None = Field(None, description="SQLite file that keeps programs between runs")
    cache_file_mb: int = Field(256, ge=1, le=100_000, description="messages and programs in that file, MB")
    state_dir: Path | None = Field(
        Path("~/.cache/psuedoptimal"), description="where the hashes of weight files are remembered"
    )
    queue_messages: int = Field(4096, ge=1, description="messages that may wait; beyond them 429")
    queue_tokens: int = Field(
        4_000_000, ge=64, description="prompt and program tokens that may wait; beyond them 429"
    )
    remote_url: str | None = Field(
        None, description="remote: the server, e.g. http://tgi:80; nothing else is asked"
    )
    remote_api: Literal["tgi", "completions", "chat"] = Field(
        "chat", description="remote: TGI's /generate, or OpenAI's /v1/completions or /v1/chat/completions"
    )
    remote_token: SecretStr | None = Field(
        None, description="remote: bearer token; remote_token_file is safer"
    )
    remote_token_file: Path | None = Field(None, description="remote: file that holds the bearer token")
    remote_tokenizer: str | None = Field(
        None, description="remote: folder or hub name of its tokenizer, for templates and counts here"
    )
    remote_connections: int = Field(64, ge=1, le=1000, description="remote: requests at a time")
    remote_timeout_s: float = Field(120.0, gt=0, le=3600, description="remote: one program's time")
