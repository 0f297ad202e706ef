"""What is said of the arrays of a group beside their rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Labels:
    """Names of axes, attributes, and arrays that do not go by rows."""

    dims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the axes of some arrays, of those beside the rows too."""
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """JSON values, of some arrays, and of the group under the name ``""``."""
    beside: Mapping[str, Any] = field(default_factory=dict)
    """Sources of arrays that do not go by rows, such as the names of columns."""
