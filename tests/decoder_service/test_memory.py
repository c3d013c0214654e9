"""Memory that really runs out: a child process with a limit on its address space."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from prometheus_client import CollectorRegistry, generate_latest

from decoder_service.engines.engine import DeviceMemory, EngineLost
from decoder_service.engines.hf import load_engine
from decoder_service.engines.memory import device_memory, fits
from decoder_service.metrics import Metrics
from decoder_service.settings import DecoderSettings

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")

SETUP = """
import ctypes, json, logging, resource, sys
import torch
from decoder_service.engines.engine import Decoding, Row
from decoder_service.engines.hf import load_engine
from decoder_service.settings import DecoderSettings
from shared.errors import Overloaded

logging.basicConfig(level=logging.WARNING, format="%(message)s")
engine = load_engine(DecoderSettings(model=sys.argv[1], max_batch=64))

def limit(more_mb):
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed must not serve in its place
    pages = int(open("/proc/self/statm").read().split()[0])
    most = pages * resource.getpagesize() + more_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
"""
DECODE = """
messages = [f"f{n} " + "x " * 600 for n in range(64)]
rows = [Row(m, ids, 1) for m, ids in zip(messages, engine.prepare(messages))]
alone = [engine.decode([row], Decoding(3, 0.9))[0] for row in rows[::16]]
limit(int(sys.argv[2]))
try:
    found = engine.decode(rows, Decoding(3, 0.9))
    print(json.dumps({"same": found[::16] == alone, "count": len(found)}))
except Overloaded as error:
    print(json.dumps({"overloaded": str(error)}))
"""
LOSS = """
from decoder_service.latent_losses import Message, Terms
from decoder_service.latents import Packed
torch.manual_seed(0)
batch = [Packed(tuple(range(10, 210)), (False,) * 20 + (True,) * 180, 20)] * 48
message = Message(*(0.2 * torch.randn(*shape) for shape in ((48, 8, 64), (64,), (64,), (48, 8, 64))))
model = engine.latents._model
calm = model.loss(batch[:2], Message(message.latents[:2], *message[1:3], message.data_latents[:2]),
                  Terms(), True, lambda: None)
limit(int(sys.argv[2]))
found = model.loss(batch, message, Terms(kl_weight=0, align_weight=0), True, lambda: None)
print(json.dumps({"count": len(found.row_ce), "same": abs(found.row_ce[0] - calm.row_ce[0]) < 1e-5,
                  "finite": bool(found.gradient.latents.isfinite().all())}))
"""


def child(folder: Path, code: str, model: Path, limit_mb: int) -> tuple[str, str]:
    script = folder / "script.py"
    script.write_text(SETUP + code)
    done = subprocess.run(
        [sys.executable, script, str(model), str(limit_mb)], capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip(), done.stderr


@pytest.mark.slow
def test_a_batch_the_memory_does_not_hold_is_halved_until_it_does(model_dir: Path, tmp_path: Path) -> None:
    out, log = child(tmp_path, DECODE, model_dir, 8)
    assert "out of memory, batch halved" in log
    assert out == '{"same": true, "count": 64}'


@pytest.mark.slow
def test_one_message_the_memory_does_not_hold_is_refused_with_the_way_out(
    model_dir: Path, tmp_path: Path
) -> None:
    code = DECODE.replace("Decoding(3, 0.9))\n    print", "Decoding(8000, 0.9))\n    print").replace(
        "limit(int", "rows = [Row(r.message, r.token_ids * 60, 1) for r in rows[:2]]\nlimit(int"
    )
    out, log = child(tmp_path, code, model_dir, 0)
    assert "batch halved" in log
    assert "does not hold a single message" in out and "lower max_new_tokens" in out


@pytest.mark.slow
def test_a_loss_the_memory_does_not_hold_takes_fewer_rows_a_pass(model_dir: Path, tmp_path: Path) -> None:
    out, log = child(tmp_path, LOSS, model_dir, 80)
    assert "out of memory, fewer rows a pass" in log
    assert out == '{"count": 48, "same": true, "finite": true}'


def test_other_errors_are_not_taken_for_a_full_memory() -> None:
    cpu = torch.device("cpu")
    with pytest.raises(RuntimeError, match="shape"):
        fits(lambda: torch.zeros(2) + torch.zeros(3).reshape(2, 2), cpu)
    with pytest.raises(EngineLost):

        def fail() -> None:
            raise torch.AcceleratorError("CUDA error: an illegal memory access")

        fits(fail, cpu)
    assert fits(lambda: torch.empty(1 << 60), cpu) is None


def test_the_memory_of_gpus_is_a_metric_where_there_are_any(model_dir: Path) -> None:
    registry = CollectorRegistry()
    Metrics(registry).watch_memory(load_engine(DecoderSettings(model=str(model_dir), device="cpu")).memory)
    assert "gpu" not in generate_latest(registry).decode()
    held = [DeviceMemory(100, 300), DeviceMemory(200, 300)]
    metrics = Metrics(CollectorRegistry())
    metrics.watch_memory(lambda: held[-1])
    held.append(DeviceMemory(50, 400))
    told = generate_latest(metrics._registry).decode()
    assert 'decoder_gpu_memory_bytes{kind="allocated"} 50.0' in told
    assert 'decoder_gpu_memory_bytes{kind="reserved"} 400.0' in told


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_what_a_gpu_holds_is_counted() -> None:
    held = torch.zeros(1 << 20, device="cuda")
    found = device_memory(held.device)
    assert found is not None and found.reserved_bytes >= found.allocated_bytes >= held.nbytes
