"""Held-out figures of a student beside its controls: cross-entropy in a layout, and in the blind layout the
sandbox's verdicts. An outage is an error, never a failed task."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from shared.clients import SandboxClient, run
from shared.errors import InvalidRequest
from shared.wire import MAX_TEXT, JudgeJob
from trainer.bearer import read_token
from trainer.channels.latent.batches import Collator, at_fault, told
from trainer.channels.latent.controls import covariance_noise, mismatched, rotated, tiled, white_noise
from trainer.channels.latent.loading import Speaker
from trainer.channels.latent.quantise import PRECISIONS, Precision, bits_per_message, packed, restored
from trainer.channels.latent.teacher import Teacher
from trainer.channels.latent.vectors import from_wire, to_wire
from trainer.config_latent import LatentConfig
from trainer.tasks.conversations import Conversation

Kind = Literal["student", "baseline", "control"]
_AT_A_TIME = 64


@dataclass(frozen=True)
class Sent:
    """One line of the table before it is measured. latents [N, K, D]; None: nothing is sent."""

    name: str
    kind: Kind
    latents: Tensor | None
    bits: int
    seconds: float | None = None


@dataclass
class Measured:
    """One line of the table. ce: nats per token and layout; row_ce: the same by conversation; passed [N]."""

    name: str
    kind: Kind
    vectors: int
    bits: int
    seconds: float | None
    ce: dict[str, float] = field(default_factory=dict)
    row_ce: dict[str, list[float]] = field(default_factory=dict)
    passed: list[bool] | None = None

    @property
    def pass_rate(self) -> float | None:
        """Share of the tasks that passed."""
        return None if self.passed is None else sum(self.passed) / len(self.passed)


class Messages:
    """The messages of a set of conversations: the student's, and what the controls make of them."""

    def __init__(
        self, speaker: Speaker, rows: Sequence[Conversation], collator: Collator, teacher: Teacher, seed: int
    ) -> None:
        self.rows, self._teacher, self._seed = list(rows), teacher, seed
        self._student, started = speaker.student, time.monotonic()
        self._student.eval()
        made, data = [], []
        with torch.inference_mode():
            for start in range(0, len(rows), _AT_A_TIME):
                batch = collator.batch(rows[start : start + _AT_A_TIME])
                spoken = self._student(
                    batch.input_ids.to(speaker.device), batch.attention_mask.to(speaker.device)
                )
                made.append(spoken.latents.float().cpu())
                if batch.data is not None:
                    data.append(self._student.data_latents(batch.data.to(speaker.device)).float().cpu())
        self.seconds = (time.monotonic() - started) / len(rows)
        self.latents = torch.cat(made).clone()
        self.data = torch.cat(data).clone() if data else None
        self.marks = {
            "bop": to_wire(self._student.bop), "eop": to_wire(self._student.eop),
        }  # fmt: skip

    def student(self, vectors: int | None = None, precision: Precision = "fp32") -> Sent:
        """Return the student's own messages, its first `vectors` of them, in a precision."""
        chosen = self.latents[:, : vectors or self.latents.shape[1]]
        bits = bits_per_message(chosen.shape[1], chosen.shape[2], precision)
        name = "student" if vectors is None and precision == "fp32" else f"student {precision}"
        name += f", first {vectors}" if vectors is not None else ""
        return Sent(name, "student", restored(packed(chosen, precision)), bits, self.seconds)

    def controls(self) -> list[Sent]:
        """Return every control, and the baselines there is something for."""
        bits = bits_per_message(*self.latents.shape[1:], "fp32")
        said = [
            "\n".join(turn.content for turn in row.turns if turn.role == "assistant") for row in self.rows
        ]
        latents, seed = self.latents, self._seed
        found = [Sent("none", "control", None, 0)]
        if len(set(said)) > 1:
            found.append(Sent("mismatched", "control", latents[mismatched(said)], bits))
        found += [
            Sent("white noise", "control", white_noise(latents, seed), bits),
            Sent("covariance noise", "control", covariance_noise(latents, seed, mean=True), bits),
            Sent("covariance noise, no mean", "control", covariance_noise(latents, seed, mean=False), bits),
            Sent("random rotation", "control", rotated(latents, seed), bits),
        ]
        if self.data is not None:
            found.append(Sent("data latents", "baseline", self.data, bits))
        if all(row.plan for row in self.rows):
            embedded = [
                from_wire(each) for each in self._teacher.embed([r.plan for r in self.rows]).embeddings
            ]
            found.append(Sent("text plan", "baseline", tiled(embedded, latents.shape[1]), bits))
        return found

    def quantised(self) -> list[Sent]:
        """Return the student's messages in every lower precision."""
        odd = self.latents.shape[2] % 2
        return [self.student(None, p) for p in PRECISIONS[1:] if not (odd and p == "int4")]

    def sweep(self) -> list[Sent]:
        """Return the student's messages cut to half their vectors, a quarter, ... one."""
        vectors, found = self.latents.shape[1] // 2, list[Sent]()
        while vectors:
            found.append(self.student(vectors))
            vectors //= 2
        return found


class Meter:
    """Measures what is sent: by the teacher's loss, and by its programs where the rows are tasks."""

    def __init__(self, teacher: Teacher, config: LatentConfig, *, judged: bool) -> None:
        self._teacher, self._config, self._judged = teacher, config, judged
        self._seen: dict[tuple[str, str], bool] = {}

    def measure(self, messages: Messages, sent: Sent, layouts: Sequence[str]) -> Measured:
        """Return one line of the table. Raises NoAnswer."""
        vectors = 0 if sent.latents is None else sent.latents.shape[1]
        found = Measured(sent.name, sent.kind, vectors, sent.bits, sent.seconds)
        for layout in layouts:
            ce, rows = self._cross_entropy(messages, sent, layout)
            found.ce[layout], found.row_ce[layout] = ce, rows
        if self._judged:
            found.passed = self._passed(messages, sent)
        return found

    def _cross_entropy(self, messages: Messages, sent: Sent, layout: str) -> tuple[float, list[float]]:
        total = tokens = 0.0
        rows: list[float] = []
        for start in range(0, len(messages.rows), _AT_A_TIME):
            part = slice(start, start + _AT_A_TIME)
            latents = None if sent.latents is None else to_wire(sent.latents[part])
            asked = messages.rows[part]
            try:
                reply = self._teacher.loss(
                    latents, [told(row, layout) for row in asked], layout=layout,
                    max_length=self._config.model_max_length, gradient=False,
                    **(messages.marks if latents is not None else {}),
                )  # fmt: skip
            except InvalidRequest as error:
                raise at_fault(error, asked, self._config.data_path) from error
            total += sum(row.ce * row.supervised for row in reply.rows)
            tokens += sum(row.supervised for row in reply.rows)
            rows += [row.ce for row in reply.rows]
        return total / tokens, rows

    def _passed(self, messages: Messages, sent: Sent) -> list[bool]:
        """Decode blindly and judge, [N]."""
        programs: list[str] = []
        most = self._config.max_program_tokens
        if sent.latents is None:
            programs = [self._teacher.decode_text([""], most)[0].text] * len(messages.rows)
        else:
            for start in range(0, len(messages.rows), _AT_A_TIME):
                latents = to_wire(sent.latents[start : start + _AT_A_TIME])
                answer = self._teacher.decode(latents, layout="blind", max_new_tokens=most, **messages.marks)
                programs += [program.text for program in answer]
        tasks = [row.task for row in messages.rows]
        asked = {
            (task.task_id, program): JudgeJob(
                program=program, tests=list(task.tests), setup=task.setup, limits=self._config.limits
            )
            for task, program in zip(tasks, programs, strict=True)
            if task and len(program) <= MAX_TEXT and (task.task_id, program) not in self._seen
        }
        if asked:
            sandbox = SandboxClient(
                self._config.sandbox_url or [], token=read_token(self._config.sandbox_token_file),
                deadline_s=self._config.deadline_s,
            )  # fmt: skip
            judge: Callable[..., Any] = sandbox.judge
            verdicts = run(judge(list(asked.values()), min_assurance=self._config.min_assurance))
            for key, verdict in zip(asked, verdicts, strict=True):
                self._seen[key] = verdict.outcome == "passed"
        return [
            bool(task) and self._seen.get((task.task_id, program), False)
            for task, program in zip(tasks, programs, strict=True)
            if task
        ]
