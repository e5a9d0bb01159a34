"""Data sets: where their files are found, the fixed split, the prepared file that workers read, augmentation."""
