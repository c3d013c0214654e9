"""The files for several GPUs: accelerate reads each, knows every key, and would launch our trainer."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType

FOLDER = Path(__file__).resolve().parents[2] / "trainer" / "configs" / "accelerate"
KINDS = {
    "multi_gpu": DistributedType.MULTI_GPU,
    "fsdp": DistributedType.FSDP,
    "deepspeed": DistributedType.DEEPSPEED,
}


@pytest.mark.parametrize("name", sorted(KINDS))
def test_accelerate_reads_the_file_and_knows_every_key(name: str) -> None:
    file = FOLDER / f"{name}.yaml"
    config = load_config_from_file(str(file))
    assert isinstance(config, ClusterConfig) and config.distributed_type == KINDS[name]
    assert not set(yaml.safe_load(file.read_text(encoding="utf-8"))) - {each.name for each in fields(config)}


@pytest.mark.parametrize("name", sorted(KINDS))
def test_each_setting_reaches_the_launcher(name: str) -> None:
    """Every nested key is an option of `accelerate launch`; it would pass an unknown one over in silence."""
    words = [
        "--config_file",
        str(FOLDER / f"{name}.yaml"),
        "--num_processes",
        "4",
        "-m",
        "trainer.cli",
        "train",
    ]
    parser = launch_command_parser()
    args, *_ = _validate_launch_command(parser.parse_args(words))
    assert args.num_processes == 4 and args.mixed_precision == "bf16" and args.module
    settings = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    options = {action.dest for action in parser._actions}
    for section in ("fsdp_config", "deepspeed_config"):
        for key, value in settings.get(section, {}).items():
            assert key in options, key
            assert str(getattr(args, key)).lower() == str(value).lower(), key
    assert args.use_fsdp == (name == "fsdp") and args.use_deepspeed == (name == "deepspeed")
    assert args.multi_gpu == (name == "multi_gpu")


def test_there_is_a_test_for_every_file() -> None:
    assert {file.stem for file in FOLDER.glob("*.yaml")} == set(KINDS)
