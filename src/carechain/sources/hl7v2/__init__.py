"""The HL7 v2 feed: messages over MLLP become FHIR, durably and once (REC-8)."""
