"""carechain: a consortium network for health records."""
