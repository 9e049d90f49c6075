"""The demonstration: six organisations in one process."""
