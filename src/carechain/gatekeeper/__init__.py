"""Gatekeeper: the custodian's door; serves what a committed ticket allows."""
