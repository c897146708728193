"""Distilling the ANN into its spiking network, without labels; needs the extra `export` (torch).

`rule.calibrate` is the calibration rule; nothing outside of this folder imports torch.
"""
