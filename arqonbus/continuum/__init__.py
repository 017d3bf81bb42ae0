"""The Continuum contract: what an event of episodic memory is, where it goes, and what follows from it."""
