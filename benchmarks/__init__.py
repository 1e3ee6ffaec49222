"""Speed and memory as ratios: every side of a comparison is measured in one run, on the same inputs."""
