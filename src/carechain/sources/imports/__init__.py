"""What patients bring along: exports of phones, watches, devices, laboratories and questionnaires, as FHIR (REC-11)."""
