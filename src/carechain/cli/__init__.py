"""The carechain command."""
