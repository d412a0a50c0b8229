"""Works out the parts of a diagnosis from one incident: symptoms, weighed evidence, verification, samples, proof."""
