"""From a message to what came of it: what the decoder is sent, its program, the verdict by test, the reward.

Also from a task to a trained student's message. Programs run in the sandbox service only; here they are text.
"""

from __future__ import annotations

import ast
import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from playground.folders import Folders, Remembered
from playground.rooms import Rooms
from playground.settings import PlaygroundSettings
from playground.tails import stamp
from shared.errors import InvalidRequest, NotFound, RoomError
from shared.wire import MAX_TEXT, DecodeRequest, JudgeJob, Program, TestResult, Verdict
from trainer.measure import ask
from trainer.measure.escape import marker

T = TypeVar("T")
MAX_PIECES = 600
# As many as shared.wire.JudgeJob takes.
MAX_TESTS = 1000
FIELDS = (("message", "Message"), ("tests", "Tests"), ("task", "Task"), ("run", "Student"))


@dataclass(frozen=True)
class Asked:
    """What the form says. run, task: empty for none; by_student: the student is to write the message."""

    run: str = ""
    task: str = ""
    message: str = ""
    tests: str = ""
    by_student: bool = False


@dataclass(frozen=True)
class Length:
    """How long a message is. tokens, bits and pieces by the student's tokenizer; None without a run.

    unknown  words of the message that the student's tokenizer does not have, each once
    """

    bytes: int
    tokens: int | None = None
    bits: float | None = None
    vocabulary: int | None = None
    decoder_tokens: int | None = None
    pieces: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """What came of a message. What was not reached is None; `problem` says why.

    request   the whole body of the request to the decoder
    prompt    what the generator reads, cut where the message stands: before, after; None if it is not found
    refused   why the student's message counts as failed whatever its program does
    """

    message: str
    length: Length
    request: str = ""
    prompt: str = ""
    program: Program | None = None
    tests: list[tuple[str, TestResult]] = field(default_factory=list)
    verdict: Verdict | None = None
    reward: ask.Earned | None = None
    refused: str = ""
    problem: RoomError | None = None

    @property
    def around(self) -> tuple[str, str] | None:
        """The prompt before and after the message."""
        before, found, after = self.prompt.rpartition(self.message)
        return (before, after) if found and self.message else None

    @property
    def headline(self) -> str:
        """What a problem is called: the form's field that it is about and the way out, where there is one."""
        if self.problem is None:
            return ""
        field = self.problem.field.rpartition(".")[2]
        name = next((name for start, name in FIELDS if field.startswith(start)), "")
        way = self.problem.hint or self.problem.detail
        return f"{name}: {way}" if name else self.problem.title


class Desk:
    """Where messages are sent from: the rooms, and the students and tasks that were used lately."""

    def __init__(self, settings: PlaygroundSettings, folders: Folders, rooms: Rooms) -> None:
        self._settings, self._folders, self._rooms = settings, folders, rooms
        self._tasks, self._words = Remembered(8), Remembered(16)
        self._students = Remembered(settings.students)
        # torch and tokenizers are asked by one thread at a time.
        self._one = threading.Lock()

    async def tasks(self, run: str) -> list[ask.Task]:
        """Return the tasks of a run's data set that it was not trained on; without a run the starter's.

        raises  NotFound without that run; InvalidRequest where there are none to be had
        """
        return await asyncio.to_thread(self._guarded, lambda: self._tasks_of(run))

    async def answer(self, asked: Asked) -> Answer:
        """Send one message through. Never raises a RoomError: the answer says how far it came."""
        answer = Answer(asked.message, Length(_bytes(asked.message)))
        try:
            task = await self._task(asked)
            tests = list(task.tests) if task else await asyncio.to_thread(statements, asked.tests)
            message, refused = asked.message, ""
            if asked.by_student:
                message, refused = await asyncio.to_thread(
                    self._guarded, lambda: self._write(asked.run, task)
                )
            _check(message)
            answer = Answer(message, Length(_bytes(message)), refused=refused)
            length = await asyncio.to_thread(self._guarded, lambda: self._length(asked.run, message))
            answer = Answer(message, length, refused=refused)
            return await self._sent(answer, asked.run, task, tests)
        except RoomError as error:
            return replace(answer, problem=error)

    async def _sent(self, answer: Answer, run: str, task: ask.Task | None, tests: list[str]) -> Answer:
        """Decode and judge; what is reached before something fails stays in the answer."""
        settings, decoder = self._settings, self._rooms.decoder
        body = DecodeRequest(messages=[answer.message], max_new_tokens=settings.max_program_tokens)
        try:
            prompt = (await decoder.prompts([answer.message]))[0]
            answer = replace(answer, request=body.model_dump_json(), prompt=prompt)
            program = (await decoder.decode([answer.message], max_new_tokens=settings.max_program_tokens))[0]
            answer = replace(answer, program=program)
            answer = replace(answer, length=await self._counted(answer))
            if not tests:
                return answer
            job = JudgeJob(program=program.text, tests=tests, setup=task.setup if task else "")
            verdict = (await self._rooms.sandbox.judge([job]))[0]
            answer = replace(answer, verdict=verdict, tests=list(zip(tests, verdict.tests, strict=True)))
            # A student has no token for an unknown word, so training never pays for one.
            if run and task and answer.length.tokens is not None and not answer.length.unknown:
                passed, tokens = verdict.passed and not answer.refused, answer.length.tokens
                earned = await asyncio.to_thread(
                    self._guarded, lambda: self._earned(run, task, passed, tokens)
                )
                answer = replace(answer, reward=earned)
        except RoomError as error:
            return replace(answer, problem=error)
        return answer

    async def _counted(self, answer: Answer) -> Length:
        """Return the length with the decoder's own count, where its engine can count."""
        try:
            counts = await self._rooms.decoder.tokenize([answer.message])
        except RoomError:
            return answer.length
        return replace(answer.length, decoder_tokens=counts[0])

    async def _task(self, asked: Asked) -> ask.Task | None:
        if not asked.task:
            if asked.by_student:
                raise InvalidRequest(
                    "the student needs a task to write about", hint="choose one from the list", field="task"
                )
            return None
        for task in await self.tasks(asked.run):
            if task.task_id == asked.task:
                return task
        raise no_task(asked.run, asked.task)

    # --- blocking; one at a time ---

    def _guarded(self, work: Callable[[], T]) -> T:
        """Do work of the trainer's; what it raises at a user's fault becomes a refusal that says so."""
        with self._one:
            try:
                return work()
            except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
                raise InvalidRequest(str(error)) from error
            except OSError as error:
                hint = "its student's model has to be on this machine"
                raise InvalidRequest(f"the run cannot be read: {error}", hint=hint) from error

    def _config(self, run: str) -> Any:
        return ask.config_of(self._folders.path(run))

    def _tasks_of(self, run: str) -> list[ask.Task]:
        if not run:
            return self._tasks.get("", None, lambda: ask.tasks_of())
        file = self._folders.path(run) / "config.yaml"
        return self._tasks.get(run, stamp(file), lambda: ask.tasks_of(self._config(run)))

    def _words_of(self, run: str) -> ask.Words:
        folder = self._folders.path(run)
        version = stamp(folder / "checkpoints" / "best" / "tokenizer.json")
        return self._words.get(run, version, lambda: ask.words_of(folder, self._config(run)))

    def _length(self, run: str, message: str) -> Length:
        if not run:
            return Length(_bytes(message))
        words = self._words_of(run)
        tokens = words.count(message)
        pieces = [_seen(piece) for piece in words.pieces(message)[:MAX_PIECES]]
        return Length(
            _bytes(message), tokens, words.bits(tokens), words.vocabulary, pieces=pieces,
            unknown=_unknown(words, message),
        )  # fmt: skip

    def _write(self, run: str, task: ask.Task | None) -> tuple[str, str]:
        if not run or task is None:
            raise InvalidRequest("no run is chosen, so there is no student", hint="choose a run", field="run")
        folder, config = self._folders.path(run), self._config(run)
        version = stamp(folder / "checkpoints" / "best" / "best.json")

        def load() -> Any:
            import torch

            torch.set_num_threads(self._settings.threads)
            return ask.student_of(folder, config)

        written = ask.message_of(self._students.get(run, version, load), config, task)
        return written.text, written.refused

    def _earned(self, run: str, task: ask.Task, passed: bool, tokens: int) -> ask.Earned:
        return ask.earned(
            self._config(run), passed=passed, tokens=tokens, figures=self._folders.card(run).figures,
            reference_tokens=self._words_of(run).count(task.reference),
        )  # fmt: skip


def no_task(run: str, task: str) -> NotFound:
    """Return what is said of a task that the run has not."""
    who = f"the run {run[:100]!r}" if run else "the starter world"
    return NotFound(
        f"task={task[:100]!r}: {who} has no such task", hint="choose one from the list", field="task"
    )


def statements(text: str) -> list[str]:
    """Take Python statements apart, as the sandbox wants its tests.

    raises  InvalidRequest naming the line, or a limit
    """
    # Of all tests together: Python's parser takes 9 s for 2 MB, and no thread goes on meanwhile.
    if len(text) > MAX_TEXT:
        what = f"the tests have {len(text)} characters, the limit is {MAX_TEXT}"
        raise InvalidRequest(what, hint="send fewer", field="tests")
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        raise InvalidRequest(
            f"tests{f', line {line}' if line else ''}: {getattr(error, 'msg', error)}",
            hint="write one Python statement a line, e.g. assert f(2) == 4", field="tests",
        ) from error  # fmt: skip
    if len(body) > MAX_TESTS:
        raise InvalidRequest(
            f"there are {len(body)} statements, the limit is {MAX_TESTS}", hint="send fewer", field="tests"
        )
    lines = text.encode().splitlines(keepends=True)
    return [_typed(lines, node) for node in body]


def _typed(lines: list[bytes], node: ast.stmt) -> str:
    """Return a statement as it was typed, with its decorators: ast.get_source_segment leaves them out, and
    splits the whole text at each call."""
    first, start = node.lineno - 1, node.col_offset
    if decorators := getattr(node, "decorator_list", []):
        first, start = decorators[0].lineno - 1, 0
        # Between brackets an expression may begin below its @.
        while not lines[first].lstrip().startswith(b"@"):
            first -= 1
    cut = lines[first : node.end_lineno]
    cut[-1] = cut[-1][: node.end_col_offset]
    cut[0] = cut[0][start:]
    return b"".join(cut).decode()


def _check(message: str) -> None:
    """Refuse what the wire cannot carry, before anything is asked."""
    if not message:
        raise InvalidRequest("the message is empty", hint="write one, or ask the student", field="message")
    if len(message) > MAX_TEXT:
        what = f"the message has {len(message)} characters, the limit is {MAX_TEXT}"
        raise InvalidRequest(what, hint="send a shorter one", field="message")
    try:
        message.encode()
    except UnicodeEncodeError as error:
        what = f"the message holds half a character: {error}"
        raise InvalidRequest(what, hint="type that character again", field="message") from error


def _unknown(words: ask.Words, message: str) -> list[str]:
    """Return the words that the tokenizer has no tokens for: its UNK stands for each, however long."""
    missing = words.tokenizer.unk_token_id
    ids = words.tokenizer.encode(message, add_special_tokens=False)
    pairs = zip(ids, words.pieces(message), strict=True)
    return list(dict.fromkeys(piece for token, piece in pairs if missing is not None and token == missing))


def _bytes(message: str) -> int:
    return len(message.encode("utf-8", "surrogatepass"))


def _seen(piece: str) -> str:
    """Return a token's text with its blanks at the edges shown; one that shows nothing is named."""
    shown = piece.replace(" ", "␣")
    return shown if shown.strip() else " ".join(marker(letter) for letter in piece)
