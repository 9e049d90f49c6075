"""What other systems speak: FHIR R4, SMART on FHIR (API-1, API-3). It translates and decides nothing."""
