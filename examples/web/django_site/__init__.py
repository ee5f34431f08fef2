"""A Django project of one view, with a model server mounted beside it."""
