"""RobustSegmenter, run state and exact resume. Names load on first use: state needs no Keras."""

from keras_robustseg._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "ExactResume": "_resume",
        "History": "_history",
        "RobustSegmenter": "_segmenter",
        "RunLock": "_lock",
        "State": "_state_files",
        "StateStore": "_state",
        "StopRequested": "_stop",
        "StopSignals": "_stop",
    },
)
