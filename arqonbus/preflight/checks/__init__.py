"""The checks, one file per family. Each one is a pure function of a context; the registry imports them."""
