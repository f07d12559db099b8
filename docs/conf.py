"""Settings of the documentation."""

from chemscale import __version__

project = "chemscale"
author = "The chemscale developers"
release = version = __version__
extensions = ["myst_parser"]
html_theme = "alabaster"
html_theme_options = {"description": "How deep chemical models scale", "page_width": "60em"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
