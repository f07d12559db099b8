"""Logs of other trainers as rows of the open table: a file for each format."""
