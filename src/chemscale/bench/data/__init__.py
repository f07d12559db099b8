"""Datasets: items, splits, nested subsets, batches."""
