"""Authenticated state: typed tables in overlays over a Merkle radix trie with a durable store."""
