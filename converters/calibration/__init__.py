"""What a calibration is made of: taps into the float graph, observers of what passes, ranges from what they saw."""
