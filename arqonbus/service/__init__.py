"""The processes, put together from a profile: the bus, and the projector beside it.

The only package that knows which of the others belong together. Its modules are imported one by one, because
a command that opens a store needs nothing of the bus.
"""
