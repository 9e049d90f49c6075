"""Programs that make parts of the package; none of them is needed to run it."""
