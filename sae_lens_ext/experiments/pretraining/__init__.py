"""Pretraining of Based, ReBased and softmax attention, and their comparison.

All are of one size and trained on one text; ``compare.compare_kernels`` does it all.
"""
