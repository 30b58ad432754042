"""How much of a model's metric a circuit gives, beside what other nodes give.

========= ========================================================================
curve     circuits of growing size, and their complements, of one kind of nodes
controls  random circuits, raw coordinates, other SAEs, other prompts
result    ``Faithfulness``: the numbers of every prompt, and the table of them
test      the call that brings them together
========= ========================================================================
"""
