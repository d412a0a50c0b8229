"""The version, in a module of its own: every room may say it, and none may import the package's door for it."""

__version__ = "0.1.0"
