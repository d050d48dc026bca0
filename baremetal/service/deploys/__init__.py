"""Verbs asked of servers: what may begin, when it begins, and what its run is frozen with."""
