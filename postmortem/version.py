"""The version of postmortem. It has its own module, so that every room can import it without the whole package."""

__version__ = "0.1.0"
