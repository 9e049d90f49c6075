"""FHIR R4 over HTTP: addresses, headers, bundles and outcomes. The caller's sight decides what is seen."""
