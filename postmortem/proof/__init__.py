"""The design of an experiment on one incident, the judging of its replays, its record, and the check of that record."""
