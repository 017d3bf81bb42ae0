"""Fuzzes the verification of tokens: python -m tests.fuzz.jwt -max_total_time=60"""

from __future__ import annotations

from tests.fuzz.endless import fuzz, watched

with watched():
    from tests.fuzz import shielded

if __name__ == "__main__":
    fuzz(shielded.jwt, shielded.JWT)
