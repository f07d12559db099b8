"""Configuration of the documentation."""

project = "chemscale"
author = "The chemscale developers"
extensions = ["myst_parser"]
html_theme = "alabaster"
exclude_patterns = ["_build"]
