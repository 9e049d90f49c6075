"""Engine: what orders transactions and makes blocks durable."""
