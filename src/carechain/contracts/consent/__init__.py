"""Consent: who may read, write or pass on which part of a patient's record, for what, until when (CON-1 … CON-9).

Grants form a tree per pseudonym. The patient's own grant is a root; a grantee with the delegate action may
hang a narrower grant below it. Liveness and scope are judged along the whole path at the moment of use, so
revoking or narrowing one node acts on its subtree without touching it.

Read in this order: ``schema`` (codes, messages, events, tables) · ``coverage`` (predicates: the third check of
CON-3) · ``grants``, ``inbox``, ``representatives`` (handlers) · ``views`` (invariants, genesis, queries).
"""
