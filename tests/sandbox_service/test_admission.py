"""What may wait: by number, by seconds of work, and who is turned away without being read."""

from __future__ import annotations

import pytest

from sandbox_service.admission import Admission
from shared.errors import Overloaded


def test_an_idle_service_takes_a_request_of_any_size() -> None:
    admission = Admission(limit=10, lanes=2, most_s=0.001)
    with admission.admit(1000):
        assert admission.jobs == 1000
    assert admission.jobs == 0


def test_jobs_are_counted_to_the_limit() -> None:
    admission = Admission(limit=10, lanes=2, most_s=100)
    with admission.admit(4):
        admission.ensure_room(6)
        with pytest.raises(Overloaded, match=r"4 jobs.* more than 10 jobs"):
            admission.ensure_room(7)


def test_seconds_of_work_are_counted_by_what_the_last_jobs_took() -> None:
    admission = Admission(limit=10_000, lanes=2, most_s=10)
    for _ in range(1000):
        admission.took(0.5)
    with admission.admit(20):
        assert admission.queued_s == pytest.approx(5, rel=1e-3)
        admission.ensure_room(19)
        with pytest.raises(Overloaded, match=r"5\.0 s of work.* more than 10 s of work") as refused:
            admission.ensure_room(21)
    assert refused.value.retry_after_s == pytest.approx(5, rel=1e-3)
    assert "SANDBOX_QUEUE_SECONDS" in (refused.value.hint or "")


def test_a_nearly_full_queue_is_shut_to_what_has_not_been_read() -> None:
    admission = Admission(limit=100, lanes=1, most_s=100)
    admission.ensure_open()
    with admission.admit(90):
        admission.ensure_open()
        with admission.admit(1), pytest.raises(Overloaded):
            admission.ensure_open()
