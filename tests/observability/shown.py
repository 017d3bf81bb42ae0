"""The metrics that there are, by the code that shows them."""

from __future__ import annotations

import re
from pathlib import Path

from arqonbus.telemetry import metrics, projection

SHOWN = {
    name
    for module in (metrics, projection)
    for name in re.findall(r'"(arqonbus_[a-z_]+)"', Path(module.__file__ or "").read_text())
}

__all__ = ["SHOWN"]
