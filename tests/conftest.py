"""What holds for every test."""

from hypothesis import settings

# How fast an example is says more about the machine than about the code.
settings.register_profile("arqonbus", deadline=None)
settings.load_profile("arqonbus")
