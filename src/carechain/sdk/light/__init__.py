"""Checking what a CometBFT chain agreed on, with no trust in the node that shows it (LED-10).

``header`` encodes and hashes what validators sign, ``fetch`` reads blocks from bytes, ``verify`` decides which header
to believe from one already believed, ``trust`` keeps that one in a file, and ``proofs`` checks states and
transactions under it. Bytes and the time come in as arguments; nothing here opens a socket or reads a clock.
"""
