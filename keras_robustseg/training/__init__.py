"""RobustSegmenter, run state and exact resume."""
