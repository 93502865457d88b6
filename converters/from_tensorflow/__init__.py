"""Keras files and SavedModels: what they would do, found out first, and the model that the lowerings take."""
