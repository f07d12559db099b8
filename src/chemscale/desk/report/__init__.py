"""The report: all that is known of one or several studies, as one HTML file that stands alone.

`render` writes the page; `figures` draws the same figures for files, which `save` writes.
Nothing here reads a folder or a clock: what goes in is a `Page`, what comes out is text.
"""

from chemscale.desk.report.build import render
from chemscale.desk.report.drawing import save
from chemscale.desk.report.figures import figures
from chemscale.desk.report.page import Page

__all__ = ["Page", "figures", "render", "save"]
