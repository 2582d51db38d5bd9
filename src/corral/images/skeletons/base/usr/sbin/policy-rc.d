#!/bin/sh
# Packages start no services when they are installed: a box has no init system.
exit 101
