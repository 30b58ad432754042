"""Pretraining of Based, ReBased and softmax attention of one size on one text, and their comparison."""
