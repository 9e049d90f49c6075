"""An organisation's own FHIR R4 repository: received bytes, records, versions, grades."""
