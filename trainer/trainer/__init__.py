"""The trainer room: students, channels, and what is measured of them."""

import os

# TRL tells its makers of every trainer that is made, from a thread that looks up a host's name, and so reads
# the environment, while accelerate writes it: sometimes a crash. And nothing leaves this machine unasked.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Of a model that has no safetensors transformers would tell a converter, at a host of its own.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
