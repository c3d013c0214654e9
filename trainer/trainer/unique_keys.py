"""YAML in which a key stands once: PyYAML takes the last of two without a word."""

from __future__ import annotations

from typing import Any

import yaml


class UniqueKeys(yaml.SafeLoader):
    """The safe loader; a mapping that holds a key twice is an error that names its line."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping. Raises ConstructorError at the second of two equal keys."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                name = key.value.replace("-", "_")
                if name in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value} stands there twice; leave one of them", key.start_mark
                    )
                seen.add(name)
        return super().construct_mapping(node, deep)
