"""Which models of a run bring Python code of their own that is executed here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trpd_agents.config.run import RunConfig


def trusted_models(config: RunConfig) -> list[str]:
    """Models with `trust_remote_code`, each as `section (model)`."""
    return list(_trusted(config.model_dump(), ""))


def _trusted(section: Mapping[str, Any], path: str) -> Iterator[str]:
    if section.get("trust_remote_code") is True:
        yield f"{path} ({section.get('model')})"
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _trusted(value, f"{path}.{key}".strip("."))
