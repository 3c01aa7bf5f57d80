"""Workflows as pictures: a tree for the terminal, SVG, and the languages of Graphviz and Mermaid.

All of them draw any workflow, also one that cannot run: cycles, connections to nodes that are not there and ids that
stand twice are marked, not refused. `services` is the hub by name and version, for the names of ports and parameters;
without it (or for a service it does not know) they are numbered. Passwords are masked unless `reveal`. The same
workflow always gives the same text.
"""

from peachctl.draw.dot import dot
from peachctl.draw.mermaid import mermaid
from peachctl.draw.svg import svg
from peachctl.draw.tree import tree

__all__ = ["dot", "mermaid", "svg", "tree"]
