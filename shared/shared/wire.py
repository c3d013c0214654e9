"""Every type that crosses HTTP. No field can hold a task: the decoder and the sandbox cannot be told one.

Unknown fields are refused (422), values are frozen once parsed, and every bound stands here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

MAX_BATCH = 1000
MAX_TEXT = 200_000
MAX_STREAM = 4_000_000  # characters a script may read, or has to print
# Logits are divided by it in float32, which ends at 3e38; sampling has become greedy long before.
MIN_TEMPERATURE = 1e-6

Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
Stream = Annotated[str, StringConstraints(max_length=MAX_STREAM)]


def _divides(temperature: float) -> float:
    if 0 < temperature < MIN_TEMPERATURE:
        raise ValueError(f"0 is greedy, and sampling needs at least {MIN_TEMPERATURE:g}")
    return temperature


def _a_number(given: object) -> object:
    # Pydantic would take true for 1 and "5" for 5, which the schema does not allow.
    if isinstance(given, bool | str):
        raise ValueError("a number is wanted")
    return given


Whole = Annotated[int, BeforeValidator(_a_number)]
Real = Annotated[float, BeforeValidator(_a_number)]
Temperature = Annotated[Real, Field(ge=0.0, le=5.0), AfterValidator(_divides)]


class Wire(BaseModel):
    """The base of every wire type: frozen, and no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --- decoder -----------------------------------------------------------------------------------------


class DecodeRequest(Wire):
    """POST /v1/decode. `seed` makes sampling repeatable: a program depends on its message, the
    parameters and the seed only, never on its neighbours in the batch."""

    messages: list[Text] = Field(min_length=1, max_length=MAX_BATCH, description="what the student sent")
    max_new_tokens: Whole = Field(512, ge=1, le=8192, description="tokens a program may have")
    temperature: Temperature = Field(0.0, description="0 is greedy")
    top_p: Real = Field(1.0, gt=0.0, le=1.0, description="nucleus sampling; 1 is off")
    seed: Whole = Field(0, ge=0, lt=2**63, description="only used when temperature > 0")


class Program(Wire):
    """What the frozen generator made of one message.

    text           the program, without fences or chatter
    tokens         tokens the generator produced, including those that were cut away
    finish_reason  stop: it ended by itself; length: max_new_tokens was reached
    cached         whether it came from the cache
    """

    text: str
    tokens: int
    finish_reason: Literal["stop", "length"]
    cached: bool = False


class DecodeReply(Wire):
    """programs [N], in the order of the messages; `cached` counts those that were not generated anew."""

    programs: list[Program]
    model: str
    cached: int = 0


class PromptReply(Wire):
    """POST /v1/prompt, of a DecodeRequest. prompts [N]: the whole text the generator continues."""

    prompts: list[str]


class TokenizeRequest(Wire):
    """POST /v1/tokenize."""

    texts: list[Text] = Field(min_length=1, max_length=MAX_BATCH)


class TokenizeReply(Wire):
    """tokens [N]: how many tokens of the generator's tokenizer each text has, special tokens excluded."""

    tokens: list[int]


class ModelCard(Wire):
    """GET /v1/model: what must be recorded so that a run can be repeated."""

    name: str
    engine: Literal["hf", "echo", "remote"]
    revision: str | None = None
    weights_sha256: str | None = None
    parameters: int | None = None
    quantization: str
    dtype: str
    device: str
    width: int | None = None
    vocabulary: int | None = None
    template_sha256: str
    libraries: dict[str, str]


# --- sandbox -----------------------------------------------------------------------------------------

Outcome = Literal["passed", "failed", "raised", "timeout", "memory", "output_limit", "forbidden"]
Assurance = Literal["value", "rpc", "in_sandbox"]


class Limits(Wire):
    """What one program may use. CPU time decides; wall time is a generous backstop."""

    cpu_s: Real = Field(5.0, gt=0, le=60)
    wall_s: Real = Field(15.0, gt=0, le=180)
    memory_mb: Whole = Field(512, ge=32, le=8192)
    output_kb: Whole = Field(1024, ge=1, le=65536, description="stdout and stderr together")
    file_mb: Whole = Field(16, ge=0, le=1024, description="size of any file it writes")
    processes: Whole = Field(16, ge=1, le=256, description="processes and threads at a time")


class InputOutput(Wire):
    """One test of a whole program: what it reads, and what it has to print. Compared line by line, without
    the spaces at the lines' ends and the empty lines at the text's."""

    stdin: Stream = ""
    stdout: Stream


class JudgeJob(Wire):
    """One program and the tests it has to pass. The program's process never sees an expected value.

    tests  Python statements over what the program defines; all of them in one run of it
    io     the program as a script, once for each: its results follow those of `tests`
    """

    program: Text
    tests: list[Text] = Field([], max_length=1000, description="Python statements, e.g. asserts")
    io: list[InputOutput] = Field([], max_length=1000, description="what a script reads and has to print")
    setup: Text = Field("", description="code the tests need, run before the program (imports, classes)")
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _is_tested(self) -> JudgeJob:
        if not self.tests and not self.io:
            raise ValueError("a job needs a test: `tests` has statements, `io` has stdin and stdout")
        return self


class JudgeRequest(Wire):
    """POST /v1/judge. Tests that cannot reach `min_assurance` are refused (422), each with its reason."""

    jobs: list[JudgeJob] = Field(min_length=1, max_length=MAX_BATCH)
    min_assurance: Assurance = "rpc"


def _to_hundredths(measured: float) -> float:
    return round(measured, 2)


# Further digits of a time or a size are noise, and make replies unreadable.
Measured = Annotated[float, AfterValidator(_to_hundredths)]


class TestResult(Wire):
    """One test. `message` says what was compared or raised, escaped and truncated."""

    __test__ = False  # not a pytest class

    outcome: Outcome
    message: str = ""
    wall_ms: Measured = 0.0
    assurance: Assurance = "value"


class Usage(Wire):
    """What the program used, metered outside it."""

    cpu_ms: Measured
    wall_ms: Measured
    memory_mb: Measured | None = None


class Verdict(Wire):
    """What the judge says of one program.

    outcome    passed only if every test passed; else the first outcome that is not `passed`
    assurance  the weakest of the tests': value (only values left the jail and the judge compared them),
               rpc (the test ran in the judge, the program answered calls), in_sandbox (side by side)
    """

    outcome: Outcome
    tests: list[TestResult]
    usage: Usage
    stdout_tail: str = ""
    stderr_tail: str = ""
    jail: str
    assurance: Assurance

    @property
    def passed(self) -> bool:
        """Whether every test passed."""
        return self.outcome == "passed"


class JudgeReply(Wire):
    """verdicts [N], in the order of the jobs."""

    verdicts: list[Verdict]


class ExecuteJob(Wire):
    """Run a program and bring back one variable by the strict typed codec."""

    program: Text
    result: str = Field("output", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)
    limits: Limits = Limits()
    preamble: Literal["sequence_dsl"] | None = None


class ExecuteRequest(Wire):
    """POST /v1/execute."""

    jobs: list[ExecuteJob] = Field(min_length=1, max_length=MAX_BATCH)


class Execution(Wire):
    """`value` is the variable in the codec's tagged JSON form; null unless `outcome` is passed."""

    outcome: Outcome
    value: Any = None
    message: str = ""
    usage: Usage
    stdout_tail: str = ""
    stderr_tail: str = ""
    jail: str


class ExecuteReply(Wire):
    """executions [N], in the order of the jobs."""

    executions: list[Execution]


class Probe(Wire):
    """One attempt of the service to break its own jail, or to trip a limit. `held` is what we want."""

    name: str
    held: bool
    detail: str = ""


class Capabilities(Wire):
    """GET /v1/capabilities: the jail in force, its layers, what was tried against it, and room for work."""

    jail: str
    layers: list[str]
    weaknesses: list[str] = Field([], description="what this jail does not protect against")
    probes: list[Probe]
    lanes: int
    queue_limit: int
    max_batch: int = MAX_BATCH
    python: str
    limits: Limits


# --- both --------------------------------------------------------------------------------------------


class Problem(BaseModel):
    """RFC 9457 problem+json: the body of every error of both services."""

    model_config = ConfigDict(extra="ignore")

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    hint: str = ""
    field: str = ""
    request_id: str = ""
    errors: list[dict[str, Any]] = []
