"""What the paper could not show: everything that needs the true gradient, or the worst case per sample."""
