"""Contracts: the rules of the network, one file or package each; none imports another."""
