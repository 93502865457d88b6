"""What a model meets on the device, compared with what it was proved on: numpy and the standard library alone.

    reference     what the data of a conversion looked like, as distributions; travels in the artifact
    monitor       the stream beside it: features, scans, sketches, faults; alarms in words
"""
