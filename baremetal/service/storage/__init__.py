"""Storage hosts and the volumes on them, as operators and the engine ask for them."""
