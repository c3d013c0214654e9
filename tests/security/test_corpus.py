"""Every attack of the corpus against a sandbox over HTTP, and after each an honest program.

Black box: SANDBOX_URL (and SANDBOX_TOKEN) name the sandbox to attack; without them each jail this machine can
give is started as a process of its own.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import httpx
import pytest
from tests.security import kernel, resources, values
from tests.security.cases import HONEST, LIMITS, SQUARE, UNHURRIED, Case

CASES = (*values.CASES, *resources.CASES, *kernel.CASES)


def judged(sandbox: httpx.Client, case: Case, least: str = "rpc") -> tuple[dict[str, Any], dict[str, Any]]:
    """Judge the attack, and then the honest program, in one request each: on one lane, one after the other."""
    attack = sandbox.post("/v1/judge", json={"jobs": [case.job], "min_assurance": least})
    after = sandbox.post("/v1/judge", json={"jobs": [honest_job()]})
    assert attack.status_code == 200, attack.text
    assert after.status_code == 200, after.text
    return attack.json()["verdicts"][0], after.json()["verdicts"][0]


def honest_job() -> dict[str, Any]:
    """An honest program, with all the time it may need beside others."""
    return {"program": HONEST, "tests": SQUARE, "limits": {**LIMITS, **UNHURRIED, "wall_s": 30}}


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_an_attack_earns_nothing_and_harms_nobody(sandbox: httpx.Client, case: Case) -> None:
    verdict, honest = judged(sandbox, case)
    assert verdict["outcome"] in case.right, verdict
    assert honest["outcome"] == "passed", honest


def test_attacks_in_one_batch_with_honest_programs_change_no_verdict(sandbox: httpx.Client) -> None:
    """Neighbours: attacks and honest programs in one request, on all lanes at once."""
    attacks = [case for case in CASES if case.row in (1, 3, 29, 32, 36, 53, 56, 58, 59, 62, 68, 72)]
    jobs = []
    for case in attacks:
        jobs += [case.job, honest_job()]
    verdicts = sandbox.post("/v1/judge", json={"jobs": jobs}).json()["verdicts"]
    wrong = [
        (case.id, verdict["outcome"])
        for case, verdict in zip(attacks, verdicts[::2], strict=True)
        if verdict["outcome"] not in case.right
    ]
    assert wrong == []
    assert Counter(verdict["outcome"] for verdict in verdicts[1::2]) == {"passed": len(attacks)}


def test_the_catalogue_is_covered() -> None:
    """Rows that are not programs: 15 (numpy is not offered), 24, 27, 80, 81 (leftovers.py), 54 (load.py), 75
    (run_code's paths), 79, 85, 91, 93 (within 78, 82), 98 to 100 (the door's tests), 102 (nothing to hold)."""
    elsewhere = {15, 24, 27, 54, 75, 79, 80, 81, 85, 91, 93, 98, 99, 100, 102}
    assert {case.row for case in CASES} | elsewhere == set(range(1, 103))
