"""SMART on FHIR: apps that a patient or a clinician lets in, and systems that prove themselves (API-1, CON-7)."""
