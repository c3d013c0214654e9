"""Load a trained coder by whatever a person calls it: a run folder, a model folder, a hub name, `starter`."""

from __future__ import annotations

from pathlib import Path

from trainer.channels.program.policy import Policy, load_policy, load_trained
from trainer.channels.text.student import quiet_libraries
from trainer.config import resolve
from trainer.config_program import ProgramConfig
from trainer.measure.folder import checkpoint_folder, own_settings


def load_coder(name: str, checkpoint: str = "best", **settings: object) -> Policy:
    """Return a coder, on its device and ready to write.

    checkpoint  of a run: best, last, or a step
    settings    further settings of the model, e.g. threads or device
    raises      ConfigError, FileNotFoundError
    """
    quiet_libraries()
    folder = Path(name)
    if (folder / "config.yaml").is_file():
        config = own_settings(ProgramConfig, folder, settings)
        policy = load_trained(config, folder, checkpoint_folder(folder, checkpoint))
    else:
        config = resolve(ProgramConfig, [], {"model_name": name, **settings})
        policy = load_policy(config)
    if not config.use_8bit_quantization:
        policy.model.to(policy.precision.device)
    return policy._replace(model=policy.model.eval())
