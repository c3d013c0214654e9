"""One lane: a warm zygote in a jail, driven over two pipes from the event loop, one run at a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import marshal
import os
import secrets
import subprocess
from collections.abc import Callable
from functools import partial

from sandbox_service.inside import frames, serve
from sandbox_service.jails.jail import Jail
from sandbox_service.replies import Collected, Frames, LaneBroken, is_clean
from sandbox_service.run import Conversation, Ended, Run

log = logging.getLogger(__name__)
_START_S = 20.0
_GRACE_S = 3.0  # the zygote has its own deadline; this one is for a zygote that does not keep it


class Lane:
    """A zygote and the run in its hands. Any irregularity breaks the lane for good; the pool replaces it."""

    def __init__(self, jail: Jail, number: int) -> None:
        self.jail, self.number, self.runs, self.broken = jail, number, 0, False
        self._loop = asyncio.get_running_loop()
        self._frames = Frames()
        self._nonce = bytes(16)
        self._collected = Collected(0)
        self._done: Callable[[Ended | LaneBroken], None] | None = None
        self._overdue: asyncio.TimerHandle | None = None
        self._talk: Conversation | None = None
        self._talking = False
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._unsent = memoryview(b"")
        self._closing: asyncio.Future[None] | None = None
        start = jail.start(number)
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        self._errors, errors = os.pipe()
        try:
            self.process = subprocess.Popen(
                start.argv, stdin=requests, stdout=replies, stderr=errors, env=dict(start.environment),
                pass_fds=start.descriptors, start_new_session=True, cwd="/",
            )  # fmt: skip
        finally:
            for fd in (requests, replies, errors):
                os.close(fd)
        for fd in (self._requests, self._replies, self._errors):
            os.set_blocking(fd, False)
        self._loop.add_reader(self._replies, self._readable)
        setup = json.dumps(dict(start.setup)).encode()
        self._send(frames.SETUP.pack(len(setup)) + setup)

    async def warm(self) -> None:
        """Wait until the zygote is ready; raise LaneBroken with what it said when it does not get there."""
        try:
            await asyncio.wait_for(self._ready, _START_S)
        except (LaneBroken, asyncio.TimeoutError) as error:
            said = self._said()
            raise LaneBroken(f"the zygote did not start: {said or error}") from error

    @property
    def in_hand(self) -> bool:
        """Whether a run is in this lane's hands."""
        return self._done is not None

    def begin(
        self,
        run: Run,
        done: Callable[[Ended | LaneBroken], None],
        talk: Conversation | None = None,
        code: bytes = b"",
    ) -> None:
        """Run one program; `done` is called, at once and from the loop, with how it ended.

        LaneBroken is given to it when the jail dies with the program. No other run may be in hand. `talk`
        is told when a run that `serves` can be asked, and what it says. `code` is what was compiled ahead.
        """
        self.runs += 1
        work = (run.program, run.setup, tuple(run.calls), tuple(run.beside), run.result, run.stdin, run.files)
        body = marshal.dumps((*work, code), 2)
        limits = run.limits
        self._nonce = secrets.token_bytes(16)
        header = frames.HEAD.pack(frames.REQUEST, self._nonce, len(body)) + frames.LIMITS.pack(
            limits.cpu_s, limits.wall_s, limits.memory_mb << 20, limits.output_kb << 10,
            limits.file_mb << 20, limits.processes, run.serves,
        )  # fmt: skip
        expected = len(run.calls) + len(run.beside) + (run.result is not None)
        self._collected = Collected(expected, run.serves, run.stdin is not None)
        self._talk, self._talking = talk, False
        self._done = done
        self._overdue = self._loop.call_later(limits.wall_s + _GRACE_S, self._break, "it did not end in time")
        self._send(header + body)

    def cancel(self) -> None:
        """Kill the lane with the run in its hands, whose `done` is told so."""
        self.kill()
        self._break("the run was cancelled")

    def _send(self, data: bytes) -> None:
        self._unsent = memoryview(bytes(self._unsent) + data) if self._unsent else memoryview(data)
        self._writable()

    def _ask(self, nonce: bytes, data: bytes) -> None:
        """Send a running program what a test asks; one that is over is asked no more."""
        if self._done is None or nonce != self._nonce:
            return
        self._collected.released = self._collected.released or not data
        if data:
            self._collected.asked += 1
            data = serve.ASK.pack(len(data)) + data
        self._send(frames.HEAD.pack(frames.MORE, nonce, len(data)) + data)

    def _converse(self) -> None:
        """Tell the conversation what there is."""
        if self._talk is None:
            return
        if not self._talking and self._collected.asked_may_begin:
            self._talking = True
            self._talk.begin(partial(self._ask, self._nonce))
        said, self._collected.said = self._collected.said, []
        for status, payload in said:
            self._talk.heard(status, payload)

    def _writable(self) -> None:
        """Write what the pipe takes; come back for the rest when it has room."""
        try:
            while self._unsent:
                self._unsent = self._unsent[os.write(self._requests, self._unsent) :]
        except BlockingIOError:
            self._loop.add_writer(self._requests, self._writable)
            return
        except OSError as error:
            self._break(f"it takes no requests: {error}")
        self._loop.remove_writer(self._requests)

    def _readable(self) -> None:
        try:
            data = os.read(self._replies, 4 * frames.CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self._break(f"it gives no replies: {error}")
            return
        if not data:
            said = self._said()
            self._break(f"it ended, saying {said!r}" if said else "it ended")
            return
        try:
            for frame in self._frames.feed(data):
                self._take(frame.kind, frame.nonce, frame.payload)
        except LaneBroken as error:
            self._break(str(error))

    def _take(self, kind: bytes, nonce: bytes, payload: bytes) -> None:
        if kind == frames.READY and not self._ready.done() and nonce == bytes(16):
            self._ready.set_result(None)
            return
        if self._done is None or nonce != self._nonce:
            raise LaneBroken(f"a frame {kind!r} of no run in hand")
        match kind:
            case frames.ANSWERS:
                self._collected.answer_bytes(payload)
                self._converse()
            case frames.STDOUT | frames.STDERR:
                self._collected.output(kind, payload)
            case frames.ENDED:
                ended = self._collected.ended(payload)
                self.broken = self.broken or not is_clean(payload)
                self._finish(ended)
            case _:
                raise LaneBroken(f"a frame {kind!r} out of turn")

    def _break(self, why: str) -> None:
        """Note that this lane is not to be used again, and fail what waits for it."""
        if not self.broken:
            log.debug("lane %d of %s is broken: %s", self.number, self.jail.name, why)
        self.broken = True
        self._loop.remove_reader(self._replies)
        if not self._ready.done():
            self._ready.set_exception(LaneBroken(why))
        self._finish(LaneBroken(why))

    def _finish(self, end: Ended | LaneBroken) -> None:
        """Hand over the end of the run in hand, if there is one."""
        done, self._done = self._done, None
        if self._overdue is not None:
            self._overdue.cancel()
        if self._talk is not None:
            self._talk.gone()
            self._talk = None
        if done is not None:
            done(end)

    def _said(self) -> str:
        """Return the end of what the jail's command wrote to stderr."""
        with contextlib.suppress(OSError):
            return os.read(self._errors, 4096).decode("utf-8", "replace").strip()[-500:]
        return ""

    def kill(self) -> None:
        """Kill the lane's process now; what the jail holds dies with it or in `close`."""
        self.broken = True
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def close(self) -> None:
        """End the lane: nothing of it lives afterwards. May be called again, and cancelled."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self.broken = True
        self._finish(LaneBroken("it was closed"))
        if self._ready.done() and not self._ready.cancelled():
            self._ready.exception()  # a waiter that went away must not turn it into a warning
        for fd in (self._requests, self._replies):
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)
        os.close(self._requests)  # a zygote that sees this kills what it started, and ends
        await asyncio.to_thread(self._reap)
        os.close(self._replies)
        os.close(self._errors)

    def _reap(self) -> None:
        try:
            self.process.wait(0.2)
        except subprocess.TimeoutExpired:
            self.kill()
            self.process.wait()
        self.jail.sweep(self.number)
