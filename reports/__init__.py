"""offbench.reports"""
