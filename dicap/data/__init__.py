"""Data folders: splits, few-shot draws, images. datasets/ states the facts; here they are read, checked and drawn."""
