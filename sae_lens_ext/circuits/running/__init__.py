"""Running circuits: the model with the activations of some nodes only.

======== =========================================================================
keys     which nodes are in which circuits, and how much of them
ablated  what nodes outside of a circuit are set to
sites    the activation at a site with some of its nodes
runner   circuits and prompts as rows of batches
======== =========================================================================
"""
