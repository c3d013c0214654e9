"""The decoder room: a frozen generator turns messages into programs. It never sees a task."""

import os

# huggingface_hub says in each request what runs it, and asks the hub first which programs there are: with
# the engine `remote` too, whose server is the only one that may hear anything.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Of a model that has no safetensors transformers would tell a converter, at a host of its own.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
