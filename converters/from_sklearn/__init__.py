"""Estimators of scikit-learn, XGBoost and LightGBM: their files, and the ONNX graph that each becomes."""
