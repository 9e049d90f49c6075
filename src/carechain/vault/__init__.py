"""Sealed objects by the hash of their bytes: folder, S3, Kademlia, another organisation; copies, scrub and metering."""
