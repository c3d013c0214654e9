"""Process 1 of a pod, with real processes: order, restarts, signals, orphans, exit codes, secrets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runpod_deployer.pod import launcher, resumed
from shared.ports import free_port

# A service: ready some time after its start; writes its starts down; dies when it is told to by a file.
SERVICE = """
import http.server, os, pathlib, sys, threading, time
port, folder = int(sys.argv[1]), pathlib.Path(sys.argv[2])
with (folder / "starts").open("a") as file: file.write(f"{os.getpid()}\\n")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *args): pass
time.sleep(0.3)
print("service is up", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
RUN = """
import sys, json
from pathlib import Path
from runpod_deployer.supervisor import Program, Supervisor
spec = json.loads(sys.argv[1])
folder = Path(spec["folder"])
def program(name, command, ready=""):
    return Program(name, command, spec["environment"], folder / f"{name}.log", folder, ready_url=ready)
services = [program(f"service{i}", each, spec["ready"]) for i, each in enumerate(spec["services"])]
main = program("main", spec["main"]) if spec["main"] else None
sys.exit(Supervisor(services, main, **spec["more"]).run())
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a pod is Linux")


class Supervised:
    """A supervisor as a process of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.process: subprocess.Popen[str] | None = None

    def start(self, main: str | None, *, services: list[list[str]] | None = None, **more: Any) -> None:
        service = [sys.executable, "-c", SERVICE, str(self.port), str(self.folder)]
        spec = {
            "folder": str(self.folder), "environment": {"PATH": os.environ["PATH"]},
            "services": [service] if services is None else services,
            "ready": f"http://127.0.0.1:{self.port}/readyz",
            "main": [sys.executable, "-c", main] if main else None, "more": more,
        }  # fmt: skip
        command = [sys.executable, "-c", RUN, json.dumps(spec)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end(self, timeout_s: float = 30) -> tuple[int, str, str]:
        assert self.process
        out, told = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, out, told

    def wait_for(self, name: str) -> str:
        assert self.process
        end = time.monotonic() + 20
        while not ((self.folder / name).is_file() and (self.folder / name).read_text(encoding="utf-8")):
            assert time.monotonic() < end and self.process.poll() is None, name
            time.sleep(0.02)
        return (self.folder / name).read_text(encoding="utf-8")

    def starts(self) -> list[int]:
        return [int(line) for line in (self.folder / "starts").read_text(encoding="utf-8").split()]


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Supervised]:
    found = Supervised(tmp_path, free_port())
    yield found
    if found.process and found.process.poll() is None:
        found.process.kill()
        found.process.communicate()


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_the_main_program_starts_when_the_services_are_ready_and_its_code_is_the_pods(
    pod: Supervised,
) -> None:
    ask = f"print(web.urlopen('http://127.0.0.1:{pod.port}/').status)"
    pod.start(f"import urllib.request as web; {ask}; raise SystemExit(7)")
    code, out, told = pod.end()
    assert code == 7 and "200\n" in out and "service is up\n" in out, told
    assert not is_alive(pod.starts()[0])


def test_a_main_program_killed_by_a_signal_gives_128_and_its_number(pod: Supervised) -> None:
    pod.start("import os; os.kill(os.getpid(), 9)", services=[])
    assert pod.end()[0] == 137


def test_a_service_that_dies_is_started_again(pod: Supervised) -> None:
    wait = "while not pathlib.Path('go').exists(): time.sleep(.05)"
    pod.start(f"import pathlib, time; pathlib.Path('up').write_text('1')\n{wait}")
    pod.wait_for("up")
    os.kill(pod.starts()[0], signal.SIGKILL)
    end = time.monotonic() + 20
    while len(pod.starts()) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    (pod.folder / "go").touch()
    code, _, told = pod.end()
    assert code == 0 and "ended with signal 9" in told and "starts again in 1 s" in told


def test_a_wrong_setting_of_a_service_ends_the_pod_with_2(pod: Supervised) -> None:
    pod.start("print('never')", services=[[sys.executable, "-c", "raise SystemExit(2)"]])
    code, out, _ = pod.end()
    assert code == 2 and "never" not in out


def test_sigterm_reaches_the_main_program_which_decides_the_code(pod: Supervised) -> None:
    pod.start(
        "import signal, sys, time, pathlib\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('checkpoint', flush=True), sys.exit(143)))\n"
        "pathlib.Path('up').write_text('1')\ntime.sleep(60)"
    )
    pod.wait_for("up")
    assert pod.process
    pod.process.send_signal(signal.SIGTERM)
    code, out, _ = pod.end()
    assert code == 143 and "checkpoint" in out and not is_alive(pod.starts()[0])


def test_a_main_program_deaf_to_sigterm_is_killed_after_its_grace(pod: Supervised) -> None:
    pod.start(
        "import signal, time, pathlib\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "pathlib.Path('up').write_text('1')\ntime.sleep(60)",
        grace_s=0.5, services=[],
    )  # fmt: skip
    pod.wait_for("up")
    assert pod.process
    pod.process.send_signal(signal.SIGTERM)
    assert pod.end(10)[0] == 137


def test_the_deadline_ends_the_main_program_as_sigterm_does(pod: Supervised) -> None:
    pod.start(
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\ntime.sleep(60)",
        deadline=time.time() + 5, services=[],  # enough for Python to start on a busy machine
    )  # fmt: skip
    code, _, told = pod.end()
    assert code == 5 and "deadline" in told


def test_orphans_are_reaped_and_nothing_of_a_session_is_left(pod: Supervised) -> None:
    pod.start(
        "import os, pathlib, subprocess, sys, time\n"
        "orphan = 'import os, sys, time; os.fork() and sys.exit(); time.sleep(60)'\n"
        "left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "subprocess.run([sys.executable, '-c', 'import os\\nif os.fork() == 0: os._exit(0)\\nos._exit(0)'])\n"
        "pathlib.Path('left').write_text(str(left.pid)); time.sleep(.7); os._exit(0)",
        services=[],
    )  # fmt: skip
    left = int(pod.wait_for("left"))
    time.sleep(0.4)
    assert pod.process
    children = Path(f"/proc/{pod.process.pid}/task/{pod.process.pid}/children").read_text(encoding="utf-8")
    zombies = [pid for pid in children.split() if not is_alive(int(pid))]
    assert not zombies
    assert pod.end()[0] == 0
    end = time.monotonic() + 5
    while is_alive(left) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_alive(left)


# --- the pod's own part: secrets, environments, resuming ------------------------------------------------


PEEK = """
import json, os, pathlib, stat
def read(path):
    try: return pathlib.Path(path).read_text()
    except OSError as error: return type(error).__name__
tokens = {k: v for k, v in os.environ.items() if k.endswith(("_TOKEN_FILE", "TOKEN_PATH"))}
print("PEEK" + json.dumps({
    "uid": os.getuid(), "names": sorted(os.environ),
    "vault": read(os.environ["VAULT"] + "/vault/RUNPOD_API_KEY"),
    "parent": read(f"/proc/{os.getppid()}/environ"), "sandbox": read(os.environ["VAULT"] + "/sandbox/token"),
    "tokens": {k: read(v) for k, v in tokens.items()},
    "modes": {k: stat.filemode(os.stat(v).st_mode) for k, v in tokens.items()},
}), flush=True)
"""


def pod_environment(tmp_path: Path, **more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {
        **kept, "POD_FOLDER": str(tmp_path / "run"), "POD_WORKSPACE": str(tmp_path / "workspace"),
        "RUNPOD_API_KEY": "rpa_secret", "HF_TOKEN": "hf_secret", "OMP_NUM_THREADS": "1",
        "DECODER_ENGINE": "echo", "SANDBOX_LANES": "1", "MY_PASSWORD": "hunter2", **more,
    }  # fmt: skip


def interpreter() -> str:
    """A Python of this version that other users may run, as an image's is; the tests' own may be root's."""
    system = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (Path(sys.executable), Path(system)):
        real = python.resolve()
        if real.is_file() and (os.geteuid() or all(p.stat().st_mode & 1 for p in (real, *real.parents))):
            return str(python)
    pytest.skip("no Python of this version here that another user may run")


def run_pod(environment: dict[str, str], *argv: str) -> subprocess.CompletedProcess[str]:
    """Start a pod's process 1 with this one's packages, and wait for its end."""
    ours = [entry for entry in sys.path if entry and not entry.startswith(sys.base_prefix)]
    path = os.pathsep.join([*filter(None, [environment.get("PYTHONPATH", "")]), *ours])
    command, environment = (
        [interpreter(), "-m", "runpod_deployer.pod", *argv],
        environment | {"PYTHONPATH": path},
    )
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def open_tmp() -> Iterator[Path]:
    """A folder that other users can get into, as a pod's are: pytest's own are closed to them."""
    with tempfile.TemporaryDirectory(prefix="pod-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture
def ports() -> dict[str, str]:
    return {"DECODER_PORT": str(free_port()), "SANDBOX_PORT": str(free_port())}


def test_no_program_sees_a_secret_that_is_not_its_own(open_tmp: Path, ports: dict[str, str]) -> None:
    """The whole pod, with both real services; in the trainer's place a program that looks around."""
    folder = open_tmp / "peek" / "trainer"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    # Where the secrets' folder is, under a name that reaches the trainer.
    (folder / "cli.py").write_text(PEEK.replace("VAULT", "PYTHONVAULT"), encoding="utf-8")
    environment = pod_environment(
        open_tmp, **ports, PYTHONPATH=str(folder.parent), PSUEDOPTIMAL_NAME="x", NVIDIA_VISIBLE_DEVICES="all"
    )
    environment["PYTHONVAULT"] = str(open_tmp / "run")
    done = run_pod(environment, "trainer", "peek")
    line = next((line for line in done.stdout.splitlines() if line.startswith("PEEK")), "")
    assert line, done.stdout[-3000:] + done.stderr[-3000:]
    seen = json.loads(line.removeprefix("PEEK"))
    text = json.dumps(seen)
    for secret in ("rpa_secret", "hunter2"):
        assert secret not in text
    assert not {"RUNPOD_API_KEY", "HF_TOKEN", "MY_PASSWORD", "POD_SECRETS"} & set(seen["names"])
    assert {"PSUEDOPTIMAL_NAME", "NVIDIA_VISIBLE_DEVICES"} <= set(seen["names"])
    assert "DECODER_ENGINE" not in seen["names"] and "SANDBOX_LANES" not in seen["names"]
    assert seen["tokens"]["HF_TOKEN_PATH"] == "hf_secret"
    assert len(seen["tokens"]["PSUEDOPTIMAL_DECODER_TOKEN_FILE"]) > 30
    assert (
        seen["tokens"]["PSUEDOPTIMAL_DECODER_TOKEN_FILE"] != seen["tokens"]["PSUEDOPTIMAL_SANDBOX_TOKEN_FILE"]
    )
    assert set(seen["modes"].values()) == {"-r--------"}
    if os.geteuid() == 0:
        assert seen["uid"] == 65532
        assert seen["vault"] == "PermissionError" and seen["sandbox"] == "PermissionError"
        assert seen["parent"] == "PermissionError"
    assert done.returncode == 0


def test_a_pod_says_what_is_wrong_with_its_variables(tmp_path: Path) -> None:
    for more, argv, words in (
        ({}, ["serve"], "expected `trainer VERB ...`, `decoder` or `sandbox`"),
        ({}, ["decoder"], "DECODER_TOKEN: not set"),
        ({"POD_DEADLINE": "tomorrow"}, ["trainer", "doctor"], "POD_DEADLINE='tomorrow': not ISO 8601"),
        ({"HF_TOKEN": "{{ RUNPOD_SECRET_hf }}"}, ["trainer", "doctor"], "HF_TOKEN: the account has no"),
    ):  # fmt: skip
        done = run_pod(pod_environment(tmp_path, **more), *argv)
        assert done.returncode == 2 and words in done.stderr


def test_a_finished_pod_stops_itself_its_peers_and_the_endpoint(
    fake: Any, deployer: Callable[..., Any], wanted: Callable[..., Any], open_tmp: Path
) -> None:
    """What `up` has made is no longer paid for when the trainer ends: only stopped, nothing is deleted."""
    deployer().up(wanted(volume_gb=0))
    made = {pod["name"].split("-")[2]: pod for pod in fake.all()["pods"].values()}
    endpoint = next(iter(fake.all()["endpoints"]))
    own = {"PSUEDOPTIMAL_DECODER_URL": "http://127.0.0.1:9", "PSUEDOPTIMAL_SANDBOX_URL": "http://127.0.0.1:9"}
    environment = pod_environment(
        open_tmp, **own, RUNPOD_POD_ID=made["trainer"]["id"], RUNPOD_API_BASE_URL=fake.api_url,
        POD_PEERS=made["trainer"]["env"]["POD_PEERS"], POD_ENDPOINT=made["trainer"]["env"]["POD_ENDPOINT"],
    )  # fmt: skip
    environment["RUNPOD_API_KEY"] = "rpa_test"
    done = run_pod(environment, "trainer", "--version")
    assert done.returncode == 0, done.stderr
    assert {pod["status"] for pod in fake.all()["pods"].values()} == {"EXITED"}
    assert fake.all()["endpoints"][endpoint]["workers"]["min"] == 0
    assert made["trainer"]["env"]["POD_ENDPOINT"] == endpoint


def test_a_pod_that_is_started_again_goes_on_with_its_run(tmp_path: Path) -> None:
    train = ["train", "text", "--config", "psuedoptimal.yaml", "--name", "one"]
    assert resumed(train, tmp_path) == ("", train)
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    assert resumed(train, tmp_path) == ("", ["train", "text", "--resume", "runs/one"])
    assert resumed(["train", "text", "--name=one"], tmp_path)[1] == ["train", "text", "--resume", "runs/one"]
    assert resumed(["evaluate", "runs/one"], tmp_path) == ("", ["evaluate", "runs/one"])
    (folder / "summary.json").touch()
    assert "is finished" in resumed(train, tmp_path)[0]


@pytest.mark.parametrize("kind", ["multi_gpu", "fsdp", "deepspeed"])
def test_several_gpus_are_trained_on_by_accelerate(kind: str) -> None:
    command = launcher({"POD_PROCESSES": "4", "POD_ACCELERATE": kind}, ["train", "text"])
    file = Path(command[command.index("--config_file") + 1])
    assert file.is_file() and file.stem == kind
    assert command[-5:] == ["4", "-m", "trainer.cli", "train", "text"]
    assert launcher({}, ["train", "text"])[1:] == ["-m", "trainer.cli", "train", "text"]
