"""Existing systems and patients' own data as sources of records (API-2, REC-2, REC-8)."""
