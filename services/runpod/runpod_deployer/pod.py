"""What runs in a pod: `python -m runpod_deployer.pod trainer VERB ... | decoder | sandbox`.

`trainer` starts a decoder and a sandbox beside the command, each on loopback, unless PSUEDOPTIMAL_DECODER_URL
or PSUEDOPTIMAL_SANDBOX_URL says that it is elsewhere. Every program gets only the variables that are its
business. Secrets leave the environment before anything starts: this process replaces itself, so that /proc
shows none of them, and each program reads those it needs from files of its own, mode 0400. Only the keys of
trackers, which their libraries take from nowhere else, are variables of the trainer.

As root each program has a user of its own; the sandbox stays root, which gives every run a uid of its own. It
shares the kernel with the rest: see README.md.
"""

from __future__ import annotations

import os
import secrets
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from runpod_deployer.api import URL, Runpod
from runpod_deployer.deployment import DECODER_PORT, SANDBOX_PORT, is_secret
from runpod_deployer.supervisor import Program, Supervisor
from shared.errors import RoomError

MARK = "POD_SECRETS"
UIDS = {"decoder": 65531, "trainer": 65532}
GROUP = 65530
COMMON = ("PATH", "LANG", "LC_", "TZ", "PYTHON", "OMP_", "LD_LIBRARY_PATH", "SSL_CERT_")
GPU = ("CUDA_", "NVIDIA_", "NCCL_", "TORCH", "HF_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
ITS_OWN = {
    "decoder": (*COMMON, *GPU, "DECODER_", "VLLM_", "TOKENIZERS_"),
    "sandbox": (*COMMON, "SANDBOX_"),
    "trainer": (
        *COMMON,
        *GPU,
        "PSUEDOPTIMAL_",
        "TOKENIZERS_",
        "WANDB_",
        "CLEARML_",
        "TRACKIO_",
        "ACCELERATE_",
    ),
}
TRACKER_KEYS = ("WANDB_API_KEY", "CLEARML_API_ACCESS_KEY", "CLEARML_API_SECRET_KEY")


class PodError(Exception):
    """A pod that cannot start. The message says why, and the way out."""


@dataclass(frozen=True)
class Pod:
    """What was found at the start. `vault` holds the secrets by name."""

    environment: Mapping[str, str]
    vault: Mapping[str, str]
    folder: Path
    workspace: Path
    root: bool

    def file(self, owner: str, name: str, text: str) -> str:
        """Write a secret for one program: its folder and file are its own, and nobody else's."""
        folder = self.folder / owner
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / name
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w") as file:
            file.write(text)
        if self.root and owner in UIDS:
            for each in (folder, path):
                os.chown(each, UIDS[owner], GROUP)
        return str(path)

    def program(self, name: str, command: Sequence[str], more: Mapping[str, str], ready: str = "") -> Program:
        """Return a program with the variables that are its business, and `more`."""
        own = {
            key: value
            for key, value in self.environment.items()
            if key.startswith(ITS_OWN[name]) and not is_secret(key)
        }
        home = self.workspace / "home" / name
        home.mkdir(parents=True, exist_ok=True)
        logs = self.workspace / "logs"
        logs.mkdir(exist_ok=True)
        uid = UIDS.get(name) if self.root else None
        if uid is not None:
            os.chown(home, uid, GROUP)
        environment = {"HOME": str(home), **own, **more}
        gid = GROUP if uid is not None else None
        return Program(name, command, environment, logs / f"{name}.log", self.workspace, uid, gid, ready)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one role and return the exit code: the trainer's, 2 for a wrong setting."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if MARK not in os.environ:
            _scrub(argv)
        return _run(argv, _open())
    except PodError as error:
        print(f"pod: {error}", file=sys.stderr)
        return 2


def _scrub(argv: Sequence[str]) -> None:
    """Put the secrets into files and start over without them."""
    folder = Path(os.environ.get("POD_FOLDER") or "/run/psuedoptimal")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Searchable for the programs' users, who have folders of their own in it; listed by nobody.
        folder.chmod(0o711)
        vault = folder / "vault"
        vault.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise PodError(f"POD_FOLDER={folder}: {error.strerror}; name a folder that can be written") from error
    for name in [name for name in os.environ if is_secret(name)]:
        value = os.environ.pop(name)
        if value.startswith("{{"):
            raise PodError(f"{name}: the account has no such secret ({value}); make it in RunPod's console")
        path = vault / name
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w") as file:
            file.write(value)
    os.environ[MARK] = str(vault)
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", "runpod_deployer.pod", *argv], dict(os.environ))


def _open() -> Pod:
    vault = Path(os.environ[MARK])
    root = os.geteuid() == 0
    python = Path(sys.executable).resolve()
    if root and not all(path.stat().st_mode & stat.S_IXOTH for path in (python, *python.parents)):
        raise PodError(f"{python}: only root can run it; install Python where others may, e.g. in /opt")
    base = Path(os.environ.get("POD_WORKSPACE") or Path.cwd())
    workspace = base / "psuedoptimal"
    try:
        for folder in (workspace, workspace / "models"):
            folder.mkdir(parents=True, exist_ok=True)
            if root:
                os.chown(folder, UIDS["trainer"], GROUP)
                folder.chmod(0o2770)
    except OSError as error:
        hint = "mount a volume that can be written"
        raise PodError(f"POD_WORKSPACE={base}: {error.strerror} ({error.filename}); {hint}") from error
    secret = {path.name: path.read_text(encoding="utf-8") for path in vault.iterdir()}
    return Pod(dict(os.environ), secret, vault.parent, workspace, root)


def _run(argv: Sequence[str], pod: Pod) -> int:
    match list(argv):
        case ["trainer", *command] if command:
            done, command = resumed(command, pod.workspace)
            if done:
                print(f"pod: {done}", file=sys.stderr)
                _let_go(pod)
                return 0
            services: list[Program] = []
            told: dict[str, str] = {}
            for room, start in (("decoder", _decoder), ("sandbox", _sandbox)):
                program, variables = _beside(pod, room, start)
                services += [program] if program else []
                told |= variables
            keys = {name: pod.vault[name] for name in TRACKER_KEYS if name in pod.vault}
            last: Program | None = pod.program(
                "trainer", launcher(pod.environment, command), {**_hub(pod, "trainer"), **told, **keys}
            )
        case ["decoder"]:
            services = [_decoder(pod, "0.0.0.0", _token(pod, "DECODER_TOKEN"))]
            last = None
        case ["sandbox"]:
            services = [_sandbox(pod, "0.0.0.0", _token(pod, "SANDBOX_TOKEN"))]
            last = None
        case _:
            raise PodError(f"{' '.join(argv)!r}: expected `trainer VERB ...`, `decoder` or `sandbox`")
    supervisor = Supervisor(services, last, deadline=_deadline(pod.environment))
    code = supervisor.run()
    if not supervisor.signalled:
        _let_go(pod)
    return code


def resumed(command: Sequence[str], workspace: Path) -> tuple[str, list[str]]:
    """Return why there is nothing to do, or "", and the command: a run that was begun here is gone on with.

    A pod is restarted as it was started, so a run of that name may be there already.
    """
    command = list(command)
    if command[:1] != ["train"] or "--resume" in command:
        return "", command
    words = [part for word in command for part in word.split("=", 1)]
    name = words[words.index("--name") + 1] if "--name" in words[:-1] else None
    folder = workspace / "runs" / str(name)
    if name is None or not (folder / "config.yaml").is_file():
        return "", command
    if (folder / "summary.json").is_file():
        return f"{folder} is finished: nothing to do", command
    return "", ["train", command[1], "--resume", f"runs/{name}"]


def launcher(environment: Mapping[str, str], command: Sequence[str]) -> list[str]:
    """Return the whole command line of the trainer: by accelerate where it has several GPUs."""
    processes = environment.get("POD_PROCESSES", "1")
    if processes == "1" or list(command[:1]) != ["train"]:
        return [sys.executable, "-m", "trainer.cli", *command]
    kind = environment.get("POD_ACCELERATE", "multi_gpu")
    config = next((path for path in _configs() if (path / f"{kind}.yaml").is_file()), None)
    if config is None:
        raise PodError(f"POD_ACCELERATE={kind}: there is no such file in trainer/configs/accelerate")
    return [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config / f"{kind}.yaml"),
        "--num_processes", processes, "-m", "trainer.cli", *command,
    ]  # fmt: skip


def _configs() -> list[Path]:
    """Where accelerate's files may lie, found without importing the trainer: in its wheel, or beside it."""
    roots = [Path(entry) for entry in sys.path if entry]
    return [root / "trainer" / "configs" / "accelerate" for root in roots] + [
        root / "configs" / "accelerate" for root in roots
    ]


def _beside(
    pod: Pod, room: str, start: Callable[[Pod, str, str], Program]
) -> tuple[Program | None, dict[str, str]]:
    """Return a service for this pod, unless it is elsewhere, and what the trainer is told of it."""
    name, port = room.upper(), {"decoder": DECODER_PORT, "sandbox": SANDBOX_PORT}[room]
    url, token = pod.environment.get(f"PSUEDOPTIMAL_{name}_URL"), pod.vault.get(f"{name}_TOKEN")
    program = None
    if not url:
        token = token or secrets.token_urlsafe(32)
        program = start(pod, "127.0.0.1", token)
        url = f"http://127.0.0.1:{program.environment.get(f'{name}_PORT', port)}"
    told = {f"PSUEDOPTIMAL_{name}_URL": url}
    if token:
        told[f"PSUEDOPTIMAL_{name}_TOKEN_FILE"] = pod.file("trainer", f"{room}_token", token)
    return program, told


def _decoder(pod: Pod, host: str, token: str) -> Program:
    port = pod.environment.get("DECODER_PORT", str(DECODER_PORT))
    more = {
        "DECODER_HOST": host, "DECODER_PORT": port, "DECODER_TOKEN_FILE": pod.file("decoder", "token", token),
        "DECODER_STATE_DIR": str(pod.workspace / "home" / "decoder"), **_hub(pod, "decoder"),
    }  # fmt: skip
    command = [sys.executable, "-m", "decoder_service"]
    return pod.program("decoder", command, more, f"http://127.0.0.1:{port}/readyz")


def _sandbox(pod: Pod, host: str, token: str) -> Program:
    port = pod.environment.get("SANDBOX_PORT", str(SANDBOX_PORT))
    more = {
        "SANDBOX_HOST": host, "SANDBOX_PORT": port, "SANDBOX_TOKEN_FILE": pod.file("sandbox", "token", token),
        "SANDBOX_MIN_ISOLATION": pod.environment.get("SANDBOX_MIN_ISOLATION", "process" if pod.root else ""),
    }  # fmt: skip
    command = [sys.executable, "-m", "sandbox_service"]
    return pod.program("sandbox", command, more, f"http://127.0.0.1:{port}/readyz")


def _hub(pod: Pod, name: str) -> dict[str, str]:
    """Where models are kept, and the hub's token as a file."""
    more = {"HF_HOME": str(pod.workspace / "models"), "TOKENIZERS_PARALLELISM": "false"}
    if token := pod.vault.get("HF_TOKEN"):
        more["HF_TOKEN_PATH"] = pod.file(name, "hf_token", token)
    return more


def _token(pod: Pod, name: str) -> str:
    if not pod.vault.get(name):
        raise PodError(f"{name}: not set; whoever reaches this pod could use it")
    return pod.vault[name]


def _deadline(environment: Mapping[str, str]) -> float | None:
    text = environment.get("POD_DEADLINE")
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise PodError(f"POD_DEADLINE={text!r}: not ISO 8601, e.g. 2026-11-02T15:04:05+00:00") from error
    if moment.tzinfo is None:
        raise PodError(f"POD_DEADLINE={text!r}: has no time zone; add +00:00")
    return moment.timestamp()


def _let_go(pod: Pod) -> None:
    """Stop paying: the decoder's pod, the endpoint's last worker, this pod. Tried for long, for it costs."""
    own, key = pod.environment.get("RUNPOD_POD_ID"), pod.vault.get("RUNPOD_API_KEY")
    if not own or not key or pod.environment.get("POD_AFTER") == "stay":
        return
    api = Runpod(key, pod.environment.get("RUNPOD_API_BASE_URL") or URL, deadline_s=600)
    steps: list[tuple[str, Callable[[], None]]] = []
    for peer in filter(None, pod.environment.get("POD_PEERS", "").split(",")):
        steps.append((f"pod {peer}", lambda peer=peer: api.stop(peer)))  # type: ignore[misc]
    if endpoint := pod.environment.get("POD_ENDPOINT"):
        steps.append((f"endpoint {endpoint}", lambda: api.rest(endpoint)))
    steps.append((f"this pod, {own}", lambda: api.stop(own)))
    for what, step in steps:
        try:
            step()
            print(f"pod: stopped {what}", file=sys.stderr)
        except RoomError as error:
            print(f"pod: COULD NOT STOP {what}, it costs on: {error}; run `down`", file=sys.stderr)
    api.close()


if __name__ == "__main__":
    raise SystemExit(main())
