"""The reference part of the documentation, generated from the code so that the two cannot disagree."""
