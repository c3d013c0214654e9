"""The Helm chart: what it renders is valid, closed, and says to the services only what they know."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from decoder_service.metrics import Metrics
from decoder_service.settings import DecoderSettings
from sandbox_service.app import create_app
from sandbox_service.settings import SandboxSettings
from trainer.config_text import TextConfig

validator = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")

CHART = Path(__file__).resolve().parents[2] / "services" / "kubernetes" / "psuedoptimal"
OLDEST, NEWEST = "1.29.0", "1.37.0"
# Each switch of values.yaml in both positions, at least once.
CASES: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "gpus": {"decoder.gpus": 1, "trainer.gpus": 8, "trainer.accelerate": "fsdp", "models.claim": "models",
             "sandbox.appArmor": "Unconfined", "sandbox.runtimeClassName": "kata"},
    "many nodes": {"trainer.nodes": 8, "trainer.gpus": 8, "trainer.runs.claim": "runs",
                   "autoscaling.kind": "hpa", "images.pullSecrets[0]": "mine"},
    "vllm and keda": {"vllm.enabled": True, "decoder.model": "Qwen/Qwen2.5-Coder-1.5B-Instruct",
                      "autoscaling.kind": "keda", "monitoring.podMonitor": True, "models.egress": True,
                      "runtimeClass.create": True, "existingSecret": "mine",
                      "sandbox.seccomp.type": "Unconfined"},
    "alone": {"trainer.enabled": False, "decoder.enabled": False, "monitoring.namespace": "",
              "sandbox.env.SANDBOX_QUEUE_SECONDS": "60"},
    "open": {"networkPolicies": False, "sandbox.enabled": False},
}  # fmt: skip
CUSTOM = {"ScaledObject", "PodMonitor"}


@pytest.fixture(scope="session")
def helm() -> str:
    """The program: $HELM, beside this Python, or on the path."""
    places = (os.environ.get("HELM"), Path(sys.executable).parent / "helm", shutil.which("helm"))
    for place in places:
        if place and Path(place).is_file():
            return str(place)
    pytest.skip("no helm: tests/kubernetes/helm.sh .venv/bin gets one")


@pytest.fixture(scope="session")
def render(helm: str) -> Callable[..., list[dict[str, Any]]]:
    """Renders the chart with some values."""
    done: dict[str, list[dict[str, Any]]] = {}

    def make(values: dict[str, Any]) -> list[dict[str, Any]]:
        key = repr(values)
        if key not in done:
            command = [helm, "template", "lab", str(CHART), "--namespace", "lab", *flags(values)]
            out = subprocess.run(command, capture_output=True, text=True, check=False)
            assert out.returncode == 0, out.stderr
            done[key] = [each for each in yaml.safe_load_all(out.stdout) if each]
        return done[key]

    return make


def flags(values: dict[str, Any]) -> list[str]:
    """The values as helm's arguments."""
    found = []
    for name, value in values.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        found += ["--set-string" if ".env." in name else "--set", f"{name}={text}"]
    return found


def pods(documents: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod template, by its component."""
    for each in documents:
        if each["kind"] in ("Deployment", "Job"):
            template = each["spec"]["template"]
            yield template["metadata"]["labels"]["app.kubernetes.io/component"], template["spec"]


def test_the_chart_passes_helms_own_linter(helm: str) -> None:
    done = subprocess.run([helm, "lint", "--strict", str(CHART)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("case", "version"), [*((case, NEWEST) for case in CASES), ("many nodes", OLDEST)])
def test_every_object_fits_kubernetes_own_schemas(
    render: Callable[..., Any], case: str, version: str
) -> None:
    """Strictly: a field Kubernetes does not know is an error."""
    documents = render(CASES[case])
    checked = 0
    for each in documents:
        if each["kind"] in CUSTOM:
            continue
        validator.validate(each, version, strict=True)
        checked += 1
    assert checked >= 4


@pytest.mark.parametrize("case", CASES)
def test_pods_can_do_nothing_they_need_not(render: Callable[..., Any], case: str) -> None:
    for room, pod in pods(render(CASES[case])):
        assert pod["automountServiceAccountToken"] is False
        assert not pod.get("hostNetwork") and not pod.get("hostPID")
        assert not [volume for volume in pod["volumes"] if "hostPath" in volume]
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["allowPrivilegeEscalation"] is False and not security.get("privileged")
            if room != "vllm":  # somebody else's image
                assert pod["securityContext"]["runAsNonRoot"] is True
                assert security["readOnlyRootFilesystem"] is True
            assert container["resources"]["limits"]["memory"]


def test_the_sandbox_holds_no_token_but_its_own(render: Callable[..., Any]) -> None:
    for case in CASES:
        for room, pod in pods(render(CASES[case])):
            keys = [item["key"] for v in pod["volumes"] if "secret" in v for item in v["secret"]["items"]]
            given = [env["name"] for c in pod["containers"] for env in c.get("env", []) if "valueFrom" in env]
            wanted = {
                "sandbox": ["sandbox"],
                "decoder": ["decoder"],
                "trainer": ["decoder", "sandbox"],
                "vllm": [],
            }
            assert keys == wanted[room]
            assert given == ([] if room == "sandbox" else ["HF_TOKEN"])


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def allowed(documents: list[dict[str, Any]], source: str, target: str) -> bool:
    """Whether the policies let one room open a connection to another one: both sides must allow it."""

    def labels(room: str) -> dict[str, str]:
        return {"app.kubernetes.io/name": "psuedoptimal", "app.kubernetes.io/instance": "lab",
                "app.kubernetes.io/component": room}  # fmt: skip

    def side(me: str, other: str, direction: str, word: str) -> bool:
        applied = [
            each["spec"]
            for each in documents
            if each["kind"] == "NetworkPolicy"
            and matches(each["spec"]["podSelector"], labels(me))
            and direction in each["spec"]["policyTypes"]
        ]
        rules = [rule for spec in applied for rule in spec.get(direction.lower(), [])]
        return not applied or any(
            matches(peer["podSelector"], labels(other))
            for rule in rules
            for peer in rule.get(word, [{"podSelector": {}}])
            if "podSelector" in peer
        )

    return side(source, target, "Egress", "to") and side(target, source, "Ingress", "from")


@pytest.mark.parametrize("case", ["as shipped", "many nodes", "vllm and keda"])
def test_only_the_trainer_reaches_both_services(render: Callable[..., Any], case: str) -> None:
    documents = render(CASES[case])
    rooms = ["trainer", "decoder", "sandbox", "vllm"]
    open_ways = {(a, b) for a in rooms for b in rooms if allowed(documents, a, b)}
    wanted = {("trainer", "decoder"), ("trainer", "sandbox")}
    wanted |= {("trainer", "trainer")} if case == "many nodes" else set()
    wanted |= {("decoder", "vllm")} if case == "vllm and keda" else set()
    if case != "vllm and keda":
        open_ways = {way for way in open_ways if "vllm" not in way}
    assert open_ways == wanted
    for each in documents:
        if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] in ("lab-sandbox", "lab-deny"):
            assert "egress" not in each["spec"]


def test_no_way_out_leads_to_a_private_address_or_the_clouds_metadata(render: Callable[..., Any]) -> None:
    blocks = [
        peer["ipBlock"]
        for each in render(CASES["vllm and keda"])
        if each["kind"] == "NetworkPolicy"
        for rule in each["spec"].get("egress", [])
        for peer in rule.get("to", [])
        if "ipBlock" in peer
    ]
    assert len(blocks) == 3
    for block in blocks:
        assert {"10.0.0.0/8", "169.254.0.0/16", "192.168.0.0/16", "172.16.0.0/12"} <= set(block["except"])


def test_every_variable_is_a_setting_of_its_service(render: Callable[..., Any]) -> None:
    known = {
        "DECODER_": {f"DECODER_{name}".upper() for name in DecoderSettings.model_fields},
        "SANDBOX_": {f"SANDBOX_{name}".upper() for name in SandboxSettings.model_fields},
        "PSUEDOPTIMAL_": {f"PSUEDOPTIMAL_{name}".upper() for name in TextConfig.model_fields},
    }
    seen = set()
    for case in CASES:
        for _, pod in pods(render(CASES[case])):
            for env in pod["containers"][0]["env"]:
                for prefix, names in known.items():
                    if env["name"].startswith(prefix):
                        assert env["name"] in names, env
                        seen.add(env["name"])
    assert len(seen) > 10
    sandbox = next(pod for room, pod in pods(render({})) if room == "sandbox")
    given = {env["name"]: env["value"] for env in sandbox["containers"][0]["env"]}
    assert given["SANDBOX_MIN_ISOLATION"] == "gvisor"


def test_autoscalers_ask_for_metrics_the_services_have(render: Callable[..., Any]) -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.watch_queue(lambda: 0.0, lambda: 0.0)
    registries = [registry, create_app(SandboxSettings()).state.registry]
    known = {sample.name for each in registries for family in each.collect() for sample in family.samples}
    scaled = [each for each in render(CASES["vllm and keda"]) if each["kind"] == "ScaledObject"]
    assert len(scaled) == 3
    for each in scaled:
        trigger = each["spec"]["triggers"][0]
        assert trigger["type"] == "prometheus" and trigger["metricType"] in ("AverageValue", "Value")
        assert set(trigger["metadata"]) == {"serverAddress", "query", "threshold"}
        assert isinstance(trigger["metadata"]["threshold"], str)
        names = set(re.findall(r"([a-z_:]+)\{", trigger["metadata"]["query"]))
        assert names and all(name in known or name == "vllm:num_requests_waiting" for name in names), names
        assert each["spec"]["minReplicaCount"] >= 1  # nobody could wake a service that is not there
    every = render(CASES["vllm and keda"])
    deployments = {each["metadata"]["name"] for each in every if each["kind"] == "Deployment"}
    assert {each["spec"]["scaleTargetRef"]["name"] for each in scaled} == deployments
    for each in render(CASES["many nodes"]):
        if each["kind"] == "HorizontalPodAutoscaler":
            assert each["spec"]["metrics"][0]["pods"]["metric"]["name"] in known
        if each["kind"] == "Deployment":
            assert "replicas" not in each["spec"]  # it would undo the autoscaler at each upgrade


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"trainer.nodes": 2, "trainer.gpus": 1}, "ReadWriteMany"),
        ({"trainer.nodes": 2, "trainer.runs.claim": "runs"}, "needs trainer.gpus"),
        ({"vllm.enabled": True}, "needs decoder.model"),
        ({"sandbox.minIsolation": "none"}, "minIsolation"),
        ({"sandbox.replica": 3}, "replica"),
        ({"sandbox.env.DECODER_MODEL": "x"}, "DECODER_MODEL"),
    ],
)
def test_values_that_cannot_work_are_refused(helm: str, values: dict[str, Any], said: str) -> None:
    command = [helm, "template", "lab", str(CHART), *flags(values)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and said in done.stderr


def shell(documents: list[dict[str, Any]]) -> tuple[str, list[str]]:
    """The trainer's script and its words."""
    pod = next(pod for room, pod in pods(documents) if room == "trainer")
    script, *words = pod["containers"][0]["args"]
    assert pod["containers"][0]["command"] == ["/bin/sh", "-c"]
    return script, words


def test_a_trainers_pod_that_starts_again_goes_on_with_its_run(
    render: Callable[..., Any], tmp_path: Path
) -> None:
    """The script as the pod runs it, with something in the command's place that says what it was asked."""
    script, words = shell(render({}))
    command = tmp_path / "psuedoptimal"
    command.write_text('#!/bin/sh\necho "$@"\n', encoding="utf-8")
    command.chmod(0o755)

    def run() -> str:
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-c", script, *words], cwd=tmp_path, env={"PATH": path}, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        return done.stdout.strip()

    assert run() == "train text --config starter-text.yaml --name run"
    folder = tmp_path / "runs" / "run"
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    assert run() == "train text --resume runs/run"
    (folder / "summary.json").touch()
    assert run() == "runs/run is finished"


def test_several_nodes_are_one_launch_of_accelerate(render: Callable[..., Any], tmp_path: Path) -> None:
    script, words = shell(render(CASES["many nodes"]))
    for name in ("accelerate", "python"):
        says = "echo /configs" if name == "python" else 'for word in "$@"; do echo "$word"; done'
        (tmp_path / name).write_text(f"#!/bin/sh\n{says}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", script, *words], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "JOB_COMPLETION_INDEX": "3"},
    )  # fmt: skip
    asked = done.stdout.split()
    pairs = dict(pairwise(asked))
    assert asked[0] == "launch" and pairs["--config_file"] == "/configs/accelerate/multi_gpu.yaml"
    assert (pairs["--num_machines"], pairs["--num_processes"], pairs["--machine_rank"]) == ("8", "64", "3")
    assert pairs["--main_process_ip"] == "lab-trainer-0.lab-trainer" and asked[-6:-4] == ["train", "text"]
    job = next(each for each in render(CASES["many nodes"]) if each["kind"] == "Job")
    assert job["spec"]["completionMode"] == "Indexed" and job["spec"]["backoffLimit"] == 0
    assert job["spec"]["template"]["spec"]["subdomain"] == "lab-trainer"


def test_the_tokens_are_long_and_differ(render: Callable[..., Any]) -> None:
    secret = next(each for each in render({}) if each["kind"] == "Secret")
    assert set(secret["data"]) == {"decoder", "sandbox"} and len(set(secret["data"].values())) == 2
    assert all(len(value) > 50 for value in secret["data"].values())


def test_the_readmes_sums_are_what_its_table_says() -> None:
    """Every figure of the sizing table is computed from the measured ones named above it."""
    text = (CHART.parent / "README.md").read_text(encoding="utf-8")
    checked = 0
    for left, right in re.findall(r"`([0-9. */+()ceil,]+) = ([0-9.,]+)`", text):
        sum_ = left.replace(",", "")
        assert set(re.findall("[a-z]+", sum_)) <= {"ceil"}
        value = eval(sum_, {"ceil": math.ceil, "__builtins__": {}})
        assert value == pytest.approx(float(right.replace(",", "")), rel=0.005), (left, right)
        checked += 1
    assert checked >= 12
