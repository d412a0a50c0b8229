"""Experiments on one incident: design the replays that would prove a cause, drive them in parallel, judge them."""
