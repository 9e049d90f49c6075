"""Chain: transactions, routing and the transition function. Start at ``transition``."""
