"""Derives the package's FHIR R4 definitions from the published ones (API-1); run with ``make definitions``."""
