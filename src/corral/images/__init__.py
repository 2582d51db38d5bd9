"""Images: the read-only layers that devboxes start from.

Owns the default image's recipe, its build and the catalogue of images on this host.
Must not know a devbox; must not change a layer once it is in the catalogue.
"""
