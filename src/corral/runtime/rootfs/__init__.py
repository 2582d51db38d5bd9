"""A box's root filesystem as data: layers, overlay, and the disk pool that bounds what a box writes."""
