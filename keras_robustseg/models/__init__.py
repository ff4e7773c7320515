"""Segmentation networks, and prediction on large images.

The names load at once, not on first use: a saved network can only be read back where its layers
are registered with Keras.
"""

from keras_robustseg._lazy import register as _register
from keras_robustseg.models._hub import from_hub as from_hub
from keras_robustseg.models._initial import SeededHeNormal as SeededHeNormal
from keras_robustseg.models._mean import MeanPrediction as MeanPrediction
from keras_robustseg.models._mean import mean_of_networks as mean_of_networks
from keras_robustseg.models._normalize import FixedNormalization as FixedNormalization
from keras_robustseg.models._predict import predict_probabilities as predict_probabilities
from keras_robustseg.models._sizes import CropLike as CropLike
from keras_robustseg.models._sizes import PadToMultiple as PadToMultiple
from keras_robustseg.models._sizes import ResizeLike as ResizeLike
from keras_robustseg.models._unet import unet as unet

_register(__name__)
