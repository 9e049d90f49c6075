"""The CometBFT engine: its application interface (ABCI 2.0), its configuration, and the process itself."""
