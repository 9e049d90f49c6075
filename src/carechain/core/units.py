"""Units that more than one package counts in."""

from typing import Final

DAY_S: Final = 86_400
"""Seconds of a civil day; leap seconds do not count in Unix time."""
