"""Sealing: HPKE to a requester, symmetric sealing, and the package a gatekeeper answers with."""
