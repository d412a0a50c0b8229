"""From one incident and its run to what the report says of it: symptoms, weighed evidence, verification, samples."""
