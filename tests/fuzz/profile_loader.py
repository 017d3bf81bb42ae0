"""Fuzzes the loader of profiles: python -m tests.fuzz.profile_loader -max_total_time=60"""

from __future__ import annotations

from tests.fuzz.endless import fuzz, watched

with watched():
    from tests.fuzz import profiles

if __name__ == "__main__":
    fuzz(profiles.profile_loader, profiles.SEEDS)
