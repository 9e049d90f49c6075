"""Types of the parts of kademlia 2.2 that the vault builds on; the library ships none."""
