"""How far a cut can move a network's answers: bounds that hold for every sample they are computed for."""
