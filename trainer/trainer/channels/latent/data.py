"""The conversations and hidden states of a run, checked before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from trainer.config_latent import STARTER, LatentConfig
from trainer.tasks.conversations import Conversation, read_conversations, split
from trainer.tasks.conversations_starter import starter_conversations
from trainer.tasks.hidden_states import HiddenStates, load_hidden_states


class Rows(NamedTuple):
    """train; evaluation: chooses the best checkpoint; heldout: what the summary is about; hidden: by id."""

    train: list[Conversation]
    evaluation: list[Conversation]
    heldout: list[Conversation]
    hidden: HiddenStates | None

    @property
    def judged(self) -> bool:
        """Whether the held-out rows are tasks whose programs a sandbox can judge."""
        return bool(self.heldout) and all(row.task is not None for row in self.heldout)

    def split_ids(self) -> dict[str, list[str]]:
        """Return the ids of each part, for split.json."""
        parts = {"train": self.train, "evaluation": self.evaluation, "heldout": self.heldout}
        return {name: [row.id for row in rows] for name, rows in parts.items()}


def load_rows(config: LatentConfig, width: int) -> Rows:
    """Return a run's rows; every id has its hidden states, and the first ones fit the teacher.

    width   of the teacher
    raises  ConfigError naming file and id
    """
    if config.data_path == STARTER:
        # The order of a split does not depend on the run's seed: three seeds are measured on the same tasks.
        parts = [
            starter_conversations(name, count)
            for name, count in (
                ("train", config.train_tasks),
                ("validation", config.validation_tasks),
                ("test", config.heldout_tasks),
            )
        ]
    else:
        found = split(read_conversations(Path(config.data_path)), config.eval_ratio, config.seed)
        parts = [found.train, found.evaluation, found.evaluation or found.train]
    hidden = load_hidden_states(config.hf_hidden_repo) if config.hf_hidden_repo is not None else None
    if hidden is not None:
        needed = parts if config.data_path != STARTER else [parts[0], parts[1], parts[2]]
        for part in needed:
            hidden.require([row.id for row in part], config.data_path)
        for row in parts[0][:1]:
            hidden.states(row.id, config.K, width)
        parts = [[row._replace(plan=row.plan or hidden.plan(row.id)) for row in part] for part in parts]
    return Rows(parts[0], parts[1], parts[2], hidden)
