"""offbench.suites"""
