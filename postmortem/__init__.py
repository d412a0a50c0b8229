"""postmortem: from a training run that went wrong to a post-mortem with ranked, evidenced causes."""

__version__ = "0.1.0"
