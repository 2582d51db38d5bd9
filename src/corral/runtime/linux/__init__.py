"""The kernel's own calls under the kernel's own names. Standard library only: the launcher loads this too."""
