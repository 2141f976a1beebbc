"""What tests of engines with weights of their own share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from trpd_agents.models import LanguageModel


@pytest.fixture
def move() -> Callable[[LanguageModel, float], None]:
    """`move(lm, size)`: an update of what is trained."""

    def by(lm: LanguageModel, size: float) -> None:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in lm.model.parameters():
                if parameter.requires_grad:
                    parameter += size * torch.randn(parameter.shape, generator=generator)

    return by
