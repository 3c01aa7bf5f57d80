"""peachctl: the backend of Peach, as one operator's command."""

__version__ = "0.1.0"
