"""ENGINE 2 (Strads): which blocks of variables to update next, and where."""

from __future__ import annotations

from .machine import Interference, Machine, Task
from .rotation import Cell, Rotation

__all__ = ["Cell", "Interference", "Machine", "Rotation", "Task"]
