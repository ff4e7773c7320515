"""Label models: which label distribution a pixel's cost is paid against."""
