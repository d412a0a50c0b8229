"""Works out the parts of a diagnosis from one incident.

The parts are the incidents of a run, symptoms, weighed evidence, suspect batches, verification, samples, and sentences
without a cause.
"""
