"""MovieLens as live traffic: the demo."""
