"""FHIR R4 search over the charts: parameters, extraction, query, SQL (API-1)."""
