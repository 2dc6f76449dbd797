"""offbench.algorithms"""
