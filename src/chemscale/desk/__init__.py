"""The desk: what the curves mean. NumPy and SciPy; pure functions from records to records."""
