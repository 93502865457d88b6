"""TFLite graphs: read, built, rewritten, planned for the quantizer, written."""
