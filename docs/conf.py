"""Configuration of the documentation."""

from chemscale import __version__

project = "chemscale"
author = "The chemscale developers"
release = version = __version__
extensions = ["myst_parser"]
html_theme = "alabaster"
exclude_patterns = ["_build"]
