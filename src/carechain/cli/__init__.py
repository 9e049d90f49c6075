"""The command line: thin commands over the SDK, the node and the engine. Start at ``main``."""
