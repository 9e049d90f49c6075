"""Node: an organisation's running service."""
