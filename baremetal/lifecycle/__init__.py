"""The core: a server's life as pure values and one function. No HTTP, database, IPMI, clock or logging in here."""
