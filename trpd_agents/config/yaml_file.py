"""YAML read without surprises: the YAML 1.2 meaning of plain words, and no key given twice.

PyYAML follows YAML 1.1, where `off`, `no` and `on` are booleans (`kind: off` would arrive as False), `1e-3` is a string
and `1:30` is the number 90. Here booleans are `true` and `false`, numbers are what JSON and Python call numbers, plus
`.inf` and `.nan`. Nothing but plain data is ever constructed.
"""

from __future__ import annotations

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """SafeLoader with its own idea of plain scalars; the class attributes below are its own copies, not PyYAML's."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key_node.value}' is given twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_FLOAT = r"^[-+]?(\d[\d_]*\.\d*|\.\d+|\d[\d_]*(?=[eE]))([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(~|null|)$"), ["~", "n", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_FLOAT), list("-+.0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][\d_]*)$"), list("-+0123456789"))


def read_yaml(text: str) -> Any:
    """Plain data in `text`. Raises `yaml.YAMLError`, with line and column, for what is not safe, valid YAML."""
    return yaml.load(text, Loader=_Loader)


def write_yaml(data: dict[str, Any]) -> str:
    """`data` as block-style YAML that `read_yaml` reads back to an equal value, keys in the order given."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=120)


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would read as something other than text."""


_Dumper.add_representer(
    tuple, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)
_Dumper.yaml_implicit_resolvers = {
    key: [*yaml.SafeDumper.yaml_implicit_resolvers.get(key, []), *_Loader.yaml_implicit_resolvers.get(key, [])]
    for key in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
}
