"""Why an artifact answers otherwise than its source: layer by layer, through the real engines.

nets         both formats in one picture, and sub-models cut out of a file
pairing      which tensor of the artifact is which tensor of the float graph
figures      what is counted about a pair of tensors
examine      the runs: cumulative, isolated, and each layer's share of the output's error
reasons      tests on the figures that say why, and what would mend it
rescaling    channels that repairs scaled against each other
divergence   the first node of a float artifact that answers otherwise
naming       what the source calls a layer
results      the typed result
"""
