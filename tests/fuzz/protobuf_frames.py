"""Fuzzes the protobuf frame decoder: python -m tests.fuzz.protobuf_frames -max_total_time=60"""

from __future__ import annotations

from tests.fuzz.endless import fuzz, watched

with watched():
    from tests.fuzz import seeds, targets

if __name__ == "__main__":
    fuzz(targets.protobuf_frames, seeds.PROTOBUF)
