"""The parameter store: sharded native tables, durable commits and the sync events that they emit."""
