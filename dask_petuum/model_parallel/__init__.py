"""ENGINE 2 (Strads): which blocks of variables to update next, and where."""

from __future__ import annotations

from .balance import balance, cut
from .baselines import Random, RoundRobin
from .interference import Correlation, KnownCorrelation, from_gram
from .machine import Interference, Machine, Task
from .picker import Policy
from .priority import Priority
from .rotation import Cell, Rotation
from .width import spectral_radius, spectral_width

__all__ = [
    "Cell",
    "Correlation",
    "Interference",
    "KnownCorrelation",
    "Machine",
    "Policy",
    "Priority",
    "Random",
    "Rotation",
    "RoundRobin",
    "Task",
    "balance",
    "cut",
    "from_gram",
    "spectral_radius",
    "spectral_width",
]
