"""Research: what a researcher may see."""
