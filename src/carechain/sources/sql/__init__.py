"""Gatekeepers in front of SQL databases that stay where they are (REC-2, REC-11)."""
