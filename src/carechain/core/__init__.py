"""Core: ids, units, limits, encoding, signatures, refusals. Imports nothing above itself."""
