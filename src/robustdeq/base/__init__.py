"""What every room stands on: errors, files, progress, provenance, statistics, threat models."""
