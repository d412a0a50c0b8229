"""Works out the parts of a diagnosis from one incident, and stores and loads what replays proved about it.

The parts are symptoms, weighed evidence, suspect batches, verification, samples, and sentences without a cause.
"""
