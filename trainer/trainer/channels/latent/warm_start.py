"""The warm start: the student learns to think of the plan, one latent for each of its tokens.

Supervised and without the teacher's loss. Three errors at every one of the K places: the student's own
next-token cross-entropy; the bridge against the next token's own embedding; and, where the teacher cuts the
plan into as many tokens, the head's output against the teacher's embedding of the same token, behind the plan
against <eop>. So the first latents the teacher is sent already look like a message in its own language.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from trainer.channels.callbacks import say
from trainer.channels.latent.batches import padded
from trainer.channels.latent.loading import Speaker
from trainer.channels.latent.teacher import Teacher
from trainer.channels.latent.vectors import from_wire
from trainer.config import ConfigError
from trainer.config_latent import LatentConfig
from trainer.tasks.conversations import Conversation

_REPORT_EVERY = 40


def warm_start(
    speaker: Speaker, rows: Sequence[Conversation], teacher: Teacher, config: LatentConfig
) -> None:
    """Train the student on plans, in place.

    rows    conversations with plans; a plan longer than K is cut, a shorter one ends in end tokens
    raises  ConfigError if no row has a plan
    """
    rows = [row for row in rows if row.plan]
    if not rows:
        raise ConfigError("warm_start_steps: no conversation has a plan; give hidden states with plans, or 0")
    chance, student = random.Random(f"warm/{config.seed}"), speaker.student
    student.train()
    # One fused pass over the parameters; the sum of relative errors is of the size of the cross-entropy.
    optimiser: Any = torch.optim.AdamW(
        student.parameters(), lr=config.warm_start_learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    steps = config.warm_start_steps
    for step in range(steps):
        rate = min(1.0, (step + 1) / 10) * (1 - step / steps)
        for group in optimiser.param_groups:
            group["lr"] = config.warm_start_learning_rate * rate
        batch = chance.sample(rows, min(config.warm_start_batch, len(rows)))
        terms = plan_errors(speaker, batch, _embedded(batch, teacher))
        loss = torch.stack(list(terms.values())).sum()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        if step % _REPORT_EVERY == 0 or step == steps - 1:
            shown = "  ".join(f"{name} {value.item():.3f}" for name, value in terms.items())
            say(f"warm start {step + 1}/{steps}: {shown}")


def plan_errors(
    speaker: Speaker, rows: Sequence[Conversation], embedded: Sequence[Tensor | None]
) -> dict[str, Tensor]:
    """Return the errors of a batch: `plan` in nats, `bridge` and `head` as shares of the targets' variance.

    embedded  the teacher's embeddings of each plan [T, D]
    """
    student, contexts, device = speaker.student, speaker.contexts, speaker.device
    vectors, end = student.vectors, contexts.end_id
    plans = [contexts.plan(row) for row in rows]
    targets = torch.tensor([(plan + [end] * vectors)[:vectors] for plan in plans], device=device)
    ids, mask = (tensor.to(device) for tensor in padded([contexts.ids(row) for row in rows], 0))
    table = student.base.get_input_embeddings().weight
    raw = _forced(student, ids, mask, targets) if student.mode == "autoregressive" else student.raw(ids, mask)
    errors = {"plan": functional.cross_entropy((raw @ table.T).flatten(0, 1), targets.flatten())}
    if student.mode == "autoregressive":
        errors["bridge"] = _relative(student.h2e(raw), table[targets].detach())
    made = student.head(student.projector(raw))
    wanted = [
        (row, given.to(device))
        for row, (plan, given) in enumerate(zip(plans, embedded, strict=True))
        if given is not None and len(given) == len(plan)
    ]
    if wanted:
        over = student.eop.detach()
        aims = [torch.cat([given, over.expand(vectors, -1)])[:vectors] for _, given in wanted]
        errors["head"] = _relative(made[[row for row, _ in wanted]], torch.stack(aims))
    return errors


def _forced(student: Any, ids: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
    """Return the states of K positions that read the start vector and the plan's own tokens, [N, K, H]."""
    embed = student.base.get_input_embeddings()
    start = student.start.expand(len(ids), 1, -1)
    inputs = torch.cat([embed(ids), start, embed(targets[:, :-1])], dim=1)
    seen = torch.cat([mask, mask.new_ones(targets.shape)], dim=1)
    states: Tensor = student.base(
        inputs_embeds=inputs, attention_mask=seen,
        position_ids=(seen.cumsum(dim=1) - 1).clamp(min=0), use_cache=False,
    ).last_hidden_state  # fmt: skip
    return states[:, -targets.shape[1] :]


def _relative(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the squared error as a share of the targets' variance around their mean."""
    spread = (wanted - wanted.flatten(0, -2).mean(dim=0)).square().sum()
    return (found - wanted).square().sum() / spread.clamp_min(1e-12)


def _embedded(rows: Sequence[Conversation], teacher: Teacher) -> list[Tensor]:
    """Return the teacher's embeddings of each row's plan."""
    reply = teacher.embed([row.plan for row in rows])
    return [from_wire(each) for each in reply.embeddings]
