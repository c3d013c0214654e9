"""The figures of several batches, against hand-worked ones."""

from __future__ import annotations

import pytest

from shared.wire_latents import LatentLossReply, LossRow
from trainer.channels.latent.engine import terms


def reply(rows: int, loss: float, align: float | None = None) -> LatentLossReply:
    row = LossRow(tokens=9, cut=1, supervised=4, ce=loss)
    return LatentLossReply(loss=loss, ce=loss, align=align, window_tokens=3, rows=[row] * rows)


def test_a_short_last_batch_counts_by_its_conversations() -> None:
    found = terms([reply(2, 1.0, 0.5), reply(2, 2.0, 0.5), reply(1, 9.0, 1.0)])
    assert found == pytest.approx(
        {"loss": 3.0, "ce": 3.0, "align": 0.6, "window_tokens": 9, "weighted_tokens": 0, "cut_tokens": 5}
    )
