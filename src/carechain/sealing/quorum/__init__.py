"""The secret side of the quorum key: dealing, resharing, capsules, release shares. See ``docs/internals/quorum.md``.

Nothing here draws randomness or does I/O: seeds and entropy are arguments, so every run can be made again in a test,
and a member that crashed sends the same bytes once more.
"""
