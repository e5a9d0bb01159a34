"""The science: initialisation, regularizers, backward error modulation. Every file cites its source."""
