"""Experiments on one incident: which replays would prove a cause, driving them side by side, judging what comes out."""
