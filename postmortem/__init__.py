"""postmortem: from a training run that went wrong to a post-mortem with ranked, evidenced causes."""

from postmortem.version import __version__ as __version__
