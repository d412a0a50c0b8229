"""The training side: what a run writes while it goes on."""
