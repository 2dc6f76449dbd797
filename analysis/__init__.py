"""offbench.analysis"""
