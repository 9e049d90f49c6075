"""Gatekeepers in front of other FHIR servers (REC-2, API-1)."""
