"""The table: the records, the study folder and the plug-in registry. No torch, no scipy."""
