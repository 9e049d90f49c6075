"""SDK: wallets, clients, and checking what a server says."""
